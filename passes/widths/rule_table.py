"""What each operation does to the widths of its inputs: the table of rules."""

from __future__ import annotations

from typing import Any

from torch import fx

from sparsefx.passes.graphs.weight_sources import argument, label_of
from sparsefx.passes.iso_flop.replaceable_layers import ACTIVATIONS
from sparsefx.passes.widths.axes import FIXED
from sparsefx.passes.widths.layer_rules import LAYERS, Rule
from sparsefx.passes.widths.split_rules import PIECES
from sparsefx.passes.widths.view_rules import VIEWS
from sparsefx.passes.widths.width_flow import Value, Widths


def _each(flow: Widths, node: fx.Node) -> Value:
    """Entry by entry: sizes meet, those of 1 stretch."""
    inputs = [*node.args, *node.kwargs.values()]
    return flow.broadcast([value for x in inputs if (value := flow.of(x))])


def _spatial(flow: Widths, node: fx.Node) -> Value:
    """Batch and channels stay; what is behind them is another grid."""
    x = flow.first(node)
    label = label_of(node)
    depth = next((int(c) for c in label if c.isdigit()), len(x) - 2)
    for axis in x[len(x) - depth :]:
        flow.axes.hold(axis, "a grid is resampled")
    grid = flow.size(node)[len(x) - depth :]
    return [*x[: len(x) - depth], *(((FIXED, size),) for size in grid)]


def _reduce(flow: Widths, node: fx.Node) -> Any:
    x, rank = flow.first(node), len(flow.size(node))
    dims: Any = argument(node, 1, "dim")
    if rank == 0:
        return []
    if dims is None:
        return flow.give_up(node, "a reduction that does not say over which axes")
    chosen = [d % len(x) for d in (dims if isinstance(dims, list | tuple) else [dims])]
    if rank == len(x):
        return [((FIXED, 1),) if i in chosen else axis for i, axis in enumerate(x)]
    return [axis for i, axis in enumerate(x) if i not in chosen]


def _pad(flow: Widths, node: fx.Node) -> Any:
    x, sizes = flow.first(node), flow.size(node)
    out = []
    for axis, size in zip(x, sizes, strict=True):
        if flow.axes.size(axis) != size:
            flow.axes.hold(axis, "it is padded")
            axis = ((FIXED, size),)
        out.append(axis)
    return out


def _constant(flow: Widths, node: fx.Node) -> Any:
    return flow.fixed(node)


def _same(flow: Widths, node: fx.Node) -> Value:
    """The first argument's shape."""
    return flow.first(node)


_EACH = (
    "add sub mul truediv div true_divide floordiv floor_divide mod pow rsub add_ "
    "sub_ mul_ div_ neg abs exp log sqrt rsqrt square reciprocal sin cos tanh erf "
    "sign floor round clamp clamp_ clamp_min clamp_max clip maximum minimum where "
    "masked_fill masked_fill_ lerp addcmul addcdiv lt gt le ge eq ne and_ or_ xor "
    "invert logical_and logical_or logical_not isnan isinf isfinite nan_to_num "
    "log1p expm1 sigmoid_ softsign threshold iadd imul isub itruediv exp_ fill_ "
    "zero_ float_power remainder fmod atan2 hypot log2 "
).split()
_SAME = (
    "softmax log_softmax dropout dropout_ dropout1d dropout2d dropout3d "
    "alpha_dropout feature_dropout contiguous clone detach to type float half "
    "double bfloat16 type_as normalize cumsum flip roll requires_grad_ alias "
    "local_response_norm cpu cuda zeros_like ones_like empty_like full_like "
    "rand_like randn_like stochastic_depth "
).split()
_SPATIAL = (
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "lp") for n in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)),
    "interpolate",
    "upsample",
)
_REDUCE = "mean sum amax amin prod var std logsumexp norm all any".split()
_CONSTANT = (
    "arange zeros ones empty full tensor eye linspace rand randn new_zeros "
    "new_ones new_empty new_full new_tensor as_tensor tril_indices one_hot "
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys((*_EACH, *ACTIVATIONS), _each),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_CONSTANT, _constant),
    "pad": _pad,
    **VIEWS,
    **PIECES,
    **LAYERS,
}
