"""What torch's operations do to the dimensions of tensors: one table, by name.

Heads and channels are followed through graphs twice, entry by entry to cut units out
(`sparsefx.passes.units`) and as widths to make layers wider (`sparsefx.passes.widths`);
tokens are followed to drop some (`sparsefx.passes.tokens`). All three read this table.
What is not in it is unknown to all of them, and what it touches stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import fx

Kind = Literal[
    "moves",
    "joins",
    "casts",
    "first",
    "each",
    "mixes",
    "reduces",
    "resamples",
    "makes",
    "norms",
    "weighs",
    "multiplies",
]

_NAMES: Mapping[Kind, str] = {
    # entries of the first argument, in another order, shape or number
    "moves": "view reshape permute transpose t flatten unflatten ravel squeeze "
    "unsqueeze expand expand_as broadcast_to getitem select narrow chunk split "
    "tensor_split split_with_sizes unbind tile repeat repeat_interleave flip roll "
    "movedim moveaxis swapaxes swapdims adjoint index_select view_as reshape_as T mT H "
    "mH pixel_shuffle pixel_unshuffle",
    # several tensors side by side
    "joins": "cat concat concatenate stack",
    # the first argument, entry by entry as it is
    "casts": "contiguous clone detach to type type_as float half bfloat16 double data "
    "alias cpu cuda",
    # a tensor of the first argument's shape, whose entries belong to its entries
    "first": "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "stochastic_depth requires_grad zeros_like ones_like full_like empty_like "
    "rand_like randn_like masked_weight masked_groups kept_weight gated scored",
    # entry by entry of all tensors given, those of size 1 stretched
    "each": ""
    "neg abs exp log log1p log2 expm1 sqrt rsqrt square reciprocal sin cos erf "
    "sign floor round sigmoid tanh relu relu6 gelu silu mish hardswish "
    "hardsigmoid hardtanh elu celu selu leaky_relu rrelu softplus softsign "
    "logsigmoid log_sigmoid threshold clamp clamp_min clamp_max clip nan_to_num "
    "isnan isinf isfinite invert logical_not fill zero add sub rsub mul div "
    "truediv true_divide floordiv floor_divide mod pow float_power fmod remainder "
    "atan2 hypot maximum minimum where masked_fill lerp addcmul addcdiv and or "
    "xor eq ne lt le gt ge logical_and logical_or radd rmul rdiv rtruediv rpow "
    "iadd isub imul itruediv",
    # the first argument's shape, with entries along some dimensions combined
    "mixes": "softmax log_softmax normalize cumsum local_response_norm",
    "reduces": "mean sum amax amin prod var std logsumexp norm all any",
    # batch and channels stay, the grid behind them is another one
    "resamples": " ".join(
        [f"{kind}_pool{n}d" for kind in ("max", "avg", "lp") for n in (1, 2, 3)]
        + [f"adaptive_{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)]
        + ["interpolate", "upsample", "pad"]
    ),
    # a new tensor, of a size that is written down
    "makes": "arange zeros ones empty full tensor eye linspace rand randn new_zeros "
    "new_ones new_empty new_full new_tensor as_tensor tril_indices one_hot size dim "
    "numel",
    # scaled with vectors that have an entry a channel, or two halves with each other
    "norms": "layer_norm rms_norm group_norm batch_norm instance_norm prelu glu",
    # the first argument, or rows picked by it, times a weight
    "weighs": "linear embedding conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d",
    # sums of products of two tensors
    "multiplies": "matmul rmatmul mm bmm addmm baddbmm einsum "
    "scaled_dot_product_attention multi_head_attention_forward",
}

OPERATIONS: Mapping[str, Kind] = {
    name: kind for kind, names in _NAMES.items() for name in names.split()
}
"""The kind of each operation."""

KEEPING = frozenset(
    [name for name, kind in OPERATIONS.items() if kind in ("moves", "casts")]
    + "view_as_complex view_as_real normalize weight_norm".split()
)
"""After these a weight is still used entry by entry, and a zero is still a zero."""

SCALING = frozenset("mul rmul div true_divide truediv".split())
"""Each entry of one argument is multiplied or divided by something."""


def plain(name: str) -> str:
    """A name without the underscores of in-place, private and operator methods.

    Example:
        >>> plain("relu_"), plain("__getitem__")
        ('relu', 'getitem')
    """
    return name.strip("_")


def called(node: fx.Node) -> str:
    """The plain name of the function, the method or the attribute that a node reads.

    Example:
        >>> graph = fx.Graph()
        >>> called(graph.call_method("add_", (graph.placeholder("x"), 1)))
        'add'
    """
    if node.target is getattr:
        return str(node.args[1])
    target = node.target
    return plain(target if isinstance(target, str) else getattr(target, "__name__", ""))


def kind_of(node: fx.Node) -> Kind | None:
    """What a node's call does to dimensions; None where nobody knows.

    Example:
        >>> graph = fx.Graph()
        >>> kind_of(graph.call_method("transpose", (graph.placeholder("x"), 0, 1)))
        'moves'
    """
    return OPERATIONS.get(called(node))
