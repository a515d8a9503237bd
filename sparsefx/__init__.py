"""Sparse training as graph rewrites under an exact, linear cost budget."""

from sparsefx import passes as passes
from sparsefx import policies as policies
from sparsefx.api import costs as costs
from sparsefx.api import draw as draw
from sparsefx.api import finalize as finalize
from sparsefx.api import graphs as graphs
from sparsefx.api import masks as masks
from sparsefx.api import report as report
from sparsefx.api import sites as sites
from sparsefx.api import step as step
from sparsefx.api import transform as transform
from sparsefx.capture import Capture as Capture
from sparsefx.capture import capture as capture
from sparsefx.checkpoint import load as load
from sparsefx.checkpoint import save as save
from sparsefx.cost import CostTable as CostTable
from sparsefx.errors import BudgetError as BudgetError
from sparsefx.errors import CaptureError as CaptureError
from sparsefx.errors import MaskError as MaskError
from sparsefx.errors import PolicyError as PolicyError
from sparsefx.errors import SparsefxError as SparsefxError
from sparsefx.granularity import Granularity as Granularity
from sparsefx.lowering import lower as lower
from sparsefx.plasticity import Plasticity as Plasticity
from sparsefx.plasticity import pruning_plasticity as pruning_plasticity
from sparsefx.policies.allocate import allocate as allocate
from sparsefx.policies.allocation import Allocation as Allocation
from sparsefx.policy import Policy as Policy
from sparsefx.policy_source import load_policy as load_policy
from sparsefx.projection import hard_topk as hard_topk
from sparsefx.projection import project as project
from sparsefx.report import Report as Report
from sparsefx.site import Site as Site
from sparsefx.spectral import SpectralHistory as SpectralHistory
from sparsefx.spectral import SpectralReport as SpectralReport
from sparsefx.spectral import spectral_report as spectral_report
from sparsefx.step_report import StepReport as StepReport

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "BudgetError",
    "Capture",
    "CaptureError",
    "CostTable",
    "Granularity",
    "MaskError",
    "Plasticity",
    "Policy",
    "PolicyError",
    "Report",
    "Site",
    "SparsefxError",
    "SpectralHistory",
    "SpectralReport",
    "StepReport",
    "allocate",
    "capture",
    "costs",
    "draw",
    "finalize",
    "graphs",
    "hard_topk",
    "load",
    "load_policy",
    "lower",
    "masks",
    "passes",
    "policies",
    "project",
    "pruning_plasticity",
    "report",
    "save",
    "sites",
    "spectral_report",
    "step",
    "transform",
]
