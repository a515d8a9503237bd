"""Unlabelled batches as calls of a model, and which of their rows count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.torch_internals import tree_flatten, tree_unflatten
from sparsefx.tracing.example_calls import Call, as_call

Valid = str | Callable[[Any], Tensor] | None
_MASK = "attention_mask"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calls to fit weights on, and others to judge them by.

    Attributes:
        calls: to fit on.
        valid: of each call, bool of (batch, tokens): the tokens that count; None where
            all do.
        held: calls that are held out.
        held_valid: theirs.
    """

    calls: tuple[Call, ...]
    valid: tuple[Tensor | None, ...]
    held: tuple[Call, ...] = ()
    held_valid: tuple[Tensor | None, ...] = ()


def calibration(
    model: nn.Module, batches: Iterable[Any], valid: Valid, held_out: float, seed: int
) -> Calibration:
    """Reads batches, moves them to where the model is, and holds some of them out.

    Args:
        model: whose first parameter says where.
        batches: tensors, tuples of positional or mappings of keyword inputs.
        valid: name of the keyword input that says which tokens count, or a function of
            the batch that does; None is ``attention_mask``, where there is one.
        held_out: share of the batches, in [0, 1); one at least stays to fit on.
        seed: of the draw.

    Raises:
        MaskError: there is no batch, or ``held_out`` or ``valid`` is not understood.
        CaptureError: a batch is none of these.

    Example:
        >>> found = calibration(nn.Linear(2, 1), [torch.ones(3, 2)] * 5, None, 0.2, 0)
        >>> len(found.calls), len(found.held)
        (4, 1)
    """
    if not 0 <= held_out < 1:
        raise MaskError(
            f"held_out is {held_out}; it is the share of the batches that nothing is "
            "fitted on, in [0, 1)"
        )
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    given = [batches] if isinstance(batches, Tensor) else list(batches)
    if not given:
        raise MaskError(
            "batches is empty; give a few batches of inputs: tensors, tuples of "
            "positional inputs, or dicts of keyword inputs"
        )
    calls, masks = [], []
    for number, batch in enumerate(given):
        call = _moved(_read(batch, number), where)
        calls.append(call)
        masks.append(_valid(batch, call, valid, number))
    specs = [tree_flatten(call)[1] for call in calls]
    for number, spec in enumerate(specs):
        if spec != specs[0]:
            raise MaskError(
                f"batch {number} has another structure than batch 0 "
                f"({_inputs(calls[number])}, not {_inputs(calls[0])}); give all "
                "batches the same inputs"
            )
    count = min(math.floor(held_out * len(calls)), len(calls) - 1)
    order = torch.randperm(len(calls), generator=torch.Generator().manual_seed(seed))
    held = set(order[:count].tolist())

    def some(values: Sequence[Any], inside: bool) -> tuple[Any, ...]:
        return tuple(v for i, v in enumerate(values) if (i in held) == inside)

    return Calibration(
        some(calls, False), some(masks, False), some(calls, True), some(masks, True)
    )


def _read(batch: Any, number: int) -> Call:
    try:
        return as_call(batch)
    except CaptureError:
        raise CaptureError(
            f"batch {number} is a {type(batch).__name__}; give tensors, tuples of "
            "positional inputs, or dicts of keyword inputs"
        ) from None


def _inputs(call: Call) -> str:
    return ", ".join([f"{len(call[0])} positional inputs", *call[1]])


def _moved(call: Call, where: torch.device) -> Call:
    leaves, spec = tree_flatten(call)
    flat = [x.to(where) if isinstance(x, Tensor) else x for x in leaves]
    args, kwargs = tree_unflatten(flat, spec)
    return tuple(args), dict(kwargs)


def _valid(batch: Any, call: Call, valid: Valid, number: int) -> Tensor | None:
    if valid is None or isinstance(valid, str):
        found = call[1].get(valid or _MASK)
        if valid is not None and not isinstance(found, Tensor):
            raise MaskError(
                f"batch {number} has no keyword input {valid!r} that says which tokens "
                f"count; it has {', '.join(call[1]) or 'none'}"
            )
    else:
        found = valid(batch)
    if not isinstance(found, Tensor) or found.ndim != 2:
        return None
    first = next((x for x in tree_flatten(call)[0] if isinstance(x, Tensor)), found)
    return found.to(first.device).bool()
