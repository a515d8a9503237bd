"""What each operation does with tags; see `sparsefx.passes.units.tags`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.passes.units.product_rules import PRODUCTS
from sparsefx.passes.units.tag_step import Step, join_all

MOVES = frozenset(
    "view reshape permute transpose t flatten unflatten squeeze unsqueeze expand "
    "expand_as broadcast_to getitem __getitem__ select narrow chunk split tensor_split "
    "split_with_sizes unbind tile repeat repeat_interleave flip roll cat concat stack "
    "movedim moveaxis swapaxes swapdims adjoint index_select view_as reshape_as".split()
)
KEEPS = frozenset(
    "contiguous clone detach to type type_as float half bfloat16 double neg abs exp "
    "log log1p expm1 sqrt rsqrt square reciprocal sigmoid tanh relu relu6 gelu silu "
    "mish hardswish hardsigmoid hardtanh elu celu selu leaky_relu softplus erf "
    "softsign sin cos clamp clip dropout dropout1d dropout2d dropout3d "
    "alpha_dropout requires_grad nan_to_num masked_weight gated scored data "
    "logsigmoid threshold".split()
)
JOINS = frozenset(
    "add sub rsub mul div truediv pow where masked_fill maximum minimum lerp addcmul "
    "and or xor eq ne lt le gt ge prelu fmod remainder radd rmul rtruediv rpow "
    "iadd isub imul itruediv __and__ __or__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ "
    "__radd__ __rsub__ __rmul__ __rtruediv__ __rpow__ __iadd__ __imul__ logical_and "
    "__add__ __sub__ __mul__ __truediv__ __pow__".split()
)
REDUCES = frozenset("mean sum amax amin var std norm prod logsumexp all any".split())
NORMALIZES = frozenset("softmax log_softmax normalize cumsum".split())
MAKES = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones "
    "new_full new_empty size dim numel".split()
)
POOLS = frozenset(
    [f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg")]
    + [f"adaptive_{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "avg")]
    + ["interpolate", "upsample"]
)


def follow(step: Step) -> Any:
    """The tags of a call's result."""
    name = step.name
    if name in RULES:
        return RULES[name](step)
    if name in MOVES:
        return _move(step)
    if name in KEEPS and step.tensors():
        first = step.args[0]
        return first if isinstance(first, Tensor) else step.free()
    if name in JOINS:
        return join_all(step, step.tensors())
    if name in REDUCES or name in NORMALIZES:
        return _reduce(step)
    if name in POOLS:
        tags = step.args[0]
        line = step.ledger.merge(tags, tuple(range(2, tags.ndim)), step.node)
        return line.expand(step.shape)
    return step.free() if name in MAKES else step.stuck()


def _move(step: Step) -> Any:
    args = step.args
    if step.name in ("getitem", "__getitem__", "index_select"):
        if isinstance(args[0], (tuple, list)):
            return args[0][args[1]]
        args = (args[0], *step.real[1:])
    target: Any = step.node.target
    if step.name == "view" or target is torch.Tensor.view:
        target = "reshape"  # tags may be laid out in another way
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **step.kwargs)
    return target(*args, **step.kwargs)


def _attribute(step: Step) -> Any:
    moved = {"T": lambda x: x.mT if x.ndim == 2 else x.permute(*range(x.ndim)[::-1])}
    moved |= {"mT": lambda x: x.mT, "data": lambda x: x}
    name = str(step.args[1])
    return moved[name](step.args[0]) if name in moved else step.free()


def _reduce(step: Step) -> Tensor:
    tags = step.args[0]
    position = 2 if step.name in ("norm", "normalize") else 1
    dims = step.get(position, "dim")
    if dims is None or isinstance(dims, bool):
        dims = tuple(range(tags.ndim))
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    line = step.ledger.merge(tags, dims, step.node)
    return tags if step.name in NORMALIZES else line.reshape(step.shape)


def _layer_norm(step: Step) -> Tensor:
    tags = step.args[0]
    dims = tuple(range(tags.ndim - len(step.args[1]), tags.ndim))
    step.ledger.merge(tags, dims, step.node)
    affine = [step.get(2, "weight"), step.get(3, "bias")]
    return join_all(step, [tags, *(x for x in affine if isinstance(x, Tensor))])


def _pad(step: Step) -> Tensor:
    tags, pads = step.args[0], step.args[1]
    padded = [-1 - i // 2 for i, width in enumerate(pads) if width]
    line = step.ledger.merge(tags, tuple(set(padded)), step.node)
    return line.expand(step.shape)


def norm_module(step: Step, tensors: Sequence[Tensor]) -> Tensor:
    """A batch norm: its tensors belong to the channels."""
    tags = step.args[0]
    unit = (1,) * (tags.ndim - 2)
    return join_all(step, [tags, *(x.reshape(-1, *unit) for x in tensors)])


RULES: Mapping[str, Callable[[Step], Any]] = {
    "getattr": _attribute,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "pad": _pad,
    **PRODUCTS,
}
