"""What each operation does with tags; see `sparsefx.passes.units.tags`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsefx.passes.units.product_rules import PRODUCTS
from sparsefx.passes.units.tag_step import Step, join_all
from sparsefx.tracing.operations import OPERATIONS, Kind

_ATTRIBUTES: Mapping[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys("TH", lambda x: x.permute(*range(x.ndim)[::-1])),
    **dict.fromkeys(("mT", "mH"), lambda x: x.mT),
}


def follow(step: Step) -> Any:
    """The tags of a call's result.

    What no rule knows, or uses a rule's operation in a way that the rule does not
    know, holds everything that it reads, with the reason.
    """
    rule = rule_of(step.name)
    if rule is None:
        return step.stuck(f"no rule says what {step.name} does to units")
    try:
        found = rule(step)
    except Exception:  # rules are written for the usual ways to call
        return step.stuck()
    whole = isinstance(found, (tuple, list)) or found.shape == step.shape
    return found if whole else step.stuck()


def rule_of(name: str) -> Callable[[Step], Any] | None:
    """The rule of an operation of the table, or None."""
    kind = OPERATIONS.get(name)
    return None if kind is None else RULES.get(name) or KINDS[kind]


def _move(step: Step) -> Any:
    first = step.args[0]
    if isinstance(first, (tuple, list)):
        return first[step.args[1]]
    if step.name in _ATTRIBUTES:
        return _ATTRIBUTES[step.name](first)
    target: Any = step.node.target
    if step.name in ("view", "view_as"):
        target = step.name.replace("view", "reshape")  # tags are laid out as they are
    if isinstance(target, str):
        return getattr(first, target)(*step.real[1:], **step.named)
    return target(first, *step.real[1:], **step.named)


def _join(step: Step) -> Any:
    target: Any = step.node.target
    return target(*step.args, **step.kwargs)


def _first(step: Step) -> Tensor:
    found = step.args[0]
    return found if isinstance(found, Tensor) else step.free()


def _each(step: Step) -> Tensor:
    return join_all(step, step.tensors())


def _reduce(step: Step) -> Tensor:
    """Sums and the like; a softmax keeps its input's shape."""
    tags = step.args[0]
    position = 2 if step.name in ("norm", "normalize") else 1
    dims = step.get(position, "dim")
    if step.name == "local_response_norm":
        dims = 1
    if dims is None or isinstance(dims, bool):
        dims = tuple(range(tags.ndim))
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    line = step.ledger.merge(tags, dims)
    return tags if OPERATIONS[step.name] == "mixes" else line.reshape(step.shape)


def _resample(step: Step) -> Tensor:
    tags = step.args[0]
    depth = next((int(c) for c in step.name if c.isdigit()), tags.ndim - 2)
    dims = tuple(range(tags.ndim - depth, tags.ndim))
    return step.ledger.merge(tags, dims).expand(step.shape)


def _pad(step: Step) -> Tensor:
    tags, pads = step.args[0], step.args[1]
    padded = [-1 - i // 2 for i, width in enumerate(pads) if width]
    line = step.ledger.merge(tags, tuple(set(padded)))
    return line.expand(step.shape)


def _layer_norm(step: Step) -> Tensor:
    tags = step.args[0]
    dims = tuple(range(tags.ndim - len(step.args[1]), tags.ndim))
    step.ledger.merge(tags, dims)
    affine = [step.get(2, "weight"), step.get(3, "bias")]
    return join_all(step, [tags, *(x for x in affine if isinstance(x, Tensor))])


def _group_norm(step: Step) -> Tensor:
    """The channels of a group stand or fall together."""
    tags = step.args[0]
    grouped = tags.unflatten(1, (step.get(1, "num_groups"), -1))
    step.ledger.merge(grouped, tuple(range(2, grouped.ndim)))
    return by_channel(step, [step.get(2, "weight"), step.get(3, "bias")])


def _batch_norm(step: Step) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    return by_channel(step, [step.get(i, name) for i, name in enumerate(names, 1)])


def _prelu(step: Step) -> Tensor:
    slopes = step.get(1, "weight")
    if slopes.numel() == 1:
        return join_all(step, [step.args[0], slopes])
    return by_channel(step, [slopes], mixes=False)


def by_channel(step: Step, vectors: Sequence[Any], *, mixes: bool = True) -> Tensor:
    """Vectors with an entry a channel, dimension 1, meet the channels.

    Args:
        step: the call.
        vectors: tags of its parameters and buffers; others are passed over.
        mixes: entries of a channel are combined, as statistics are.
    """
    tags = step.args[0]
    unit = (1,) * (tags.ndim - 2)
    if mixes:
        step.ledger.merge(tags, tuple(range(2, tags.ndim)))
    own = [x.reshape(-1, *unit) for x in vectors if isinstance(x, Tensor)]
    return join_all(step, [tags, *own])


def _glu(step: Step) -> Tensor:
    """Each entry of the first half is multiplied by one of the second."""
    return join_all(step, step.args[0].chunk(2, step.get(1, "dim", -1)))


def _shuffle(step: Step) -> Tensor:
    factor = int(step.get(1, "upscale_factor", step.kwargs.get("downscale_factor")))
    call = F.pixel_shuffle if step.name == "pixel_shuffle" else F.pixel_unshuffle
    # floats hold whole numbers up to 2^53, and the shuffle takes no integers everywhere
    return call(step.args[0].double(), factor).to(torch.int64)


KINDS: Mapping[Kind, Callable[[Step], Any]] = {
    "moves": _move,
    "joins": _join,
    "casts": _first,
    "first": _first,
    "each": _each,
    "mixes": _reduce,
    "reduces": _reduce,
    "resamples": _resample,
    "makes": Step.free,
}

RULES: Mapping[str, Callable[[Step], Any]] = {
    "pad": _pad,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "prelu": _prelu,
    "glu": _glu,
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _shuffle,
    "multi_head_attention_forward": lambda step: step.stuck(
        "attention is one call, which SplitAttention takes apart"
    ),
    **PRODUCTS,
}
