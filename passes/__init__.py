"""Graph rewrites and annotations: one pass a file."""

from sparsefx.passes.annotate_costs import AnnotateCosts as AnnotateCosts
from sparsefx.passes.find_units import find_units as find_units
from sparsefx.passes.gate_units import GateUnits as GateUnits
from sparsefx.passes.insert_masks import InsertMasks as InsertMasks
from sparsefx.passes.select_tokens import SelectTokens as SelectTokens
from sparsefx.passes.shrink_units import ShrinkUnits as ShrinkUnits
from sparsefx.passes.sparse_doped import SparseDoped as SparseDoped
from sparsefx.passes.sparse_factorized import SparseFactorized as SparseFactorized
from sparsefx.passes.sparse_parallel import SparseParallel as SparseParallel
from sparsefx.passes.sparse_wide import SparseWide as SparseWide
from sparsefx.passes.split_attention import SplitAttention as SplitAttention
