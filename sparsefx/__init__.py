"""Sparse training as graph rewrites under an exact, linear cost budget."""

from sparsefx import integrations as integrations
from sparsefx import passes as passes
from sparsefx import policies as policies
from sparsefx.api import costs as costs
from sparsefx.api import draw as draw
from sparsefx.api import finalize as finalize
from sparsefx.api import graphs as graphs
from sparsefx.api import report as report
from sparsefx.errors import BudgetError as BudgetError
from sparsefx.errors import CaptureError as CaptureError
from sparsefx.errors import MaskError as MaskError
from sparsefx.errors import PolicyError as PolicyError
from sparsefx.errors import SparsefxError as SparsefxError
from sparsefx.learners.learner import Learner as Learner
from sparsefx.lowering import lower as lower
from sparsefx.masking.raw_weights import latent as latent
from sparsefx.masking.site import Site as Site
from sparsefx.passes.costs.cost_table import CostTable as CostTable
from sparsefx.policies.allocate import allocate as allocate
from sparsefx.policies.allocation import Allocation as Allocation
from sparsefx.policies.load_policy import load_policy as load_policy
from sparsefx.policies.policy import Policy as Policy
from sparsefx.pruning.prune import prune as prune
from sparsefx.pruning.pruned import Pruned as Pruned
from sparsefx.reports.report import Report as Report
from sparsefx.settings.granularity import Granularity as Granularity
from sparsefx.solver.projection import hard_topk as hard_topk
from sparsefx.solver.projection import project as project
from sparsefx.tracing.capture import Capture as Capture
from sparsefx.tracing.capture import capture as capture
from sparsefx.training.checkpoint import load as load
from sparsefx.training.checkpoint import save as save
from sparsefx.training.live_model import masks as masks
from sparsefx.training.live_model import sites as sites
from sparsefx.training.live_model import step as step
from sparsefx.training.live_model import transform as transform
from sparsefx.training.plasticity import Plasticity as Plasticity
from sparsefx.training.plasticity import pruning_plasticity as pruning_plasticity
from sparsefx.training.spectral_report import SpectralHistory as SpectralHistory
from sparsefx.training.spectral_report import SpectralReport as SpectralReport
from sparsefx.training.spectral_report import spectral_report as spectral_report
from sparsefx.training.step_report import StepReport as StepReport

__version__ = "0.2.0.dev0"

__all__ = [
    "Allocation",
    "BudgetError",
    "Capture",
    "CaptureError",
    "CostTable",
    "Granularity",
    "Learner",
    "MaskError",
    "Plasticity",
    "Policy",
    "PolicyError",
    "Pruned",
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
    "integrations",
    "latent",
    "load",
    "load_policy",
    "lower",
    "masks",
    "passes",
    "policies",
    "project",
    "prune",
    "pruning_plasticity",
    "report",
    "save",
    "sites",
    "spectral_report",
    "step",
    "transform",
]
