"""Graph rewrites and annotations: one pass a file."""

from sparsefx.passes.annotate_costs import AnnotateCosts as AnnotateCosts
from sparsefx.passes.insert_masks import InsertMasks as InsertMasks
from sparsefx.passes.split_attention import SplitAttention as SplitAttention
