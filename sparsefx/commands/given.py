"""Inputs, sizes, budgets and arguments, from texts of a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.errors import SparsefxError


def example_inputs(
    shapes: Sequence[str],
) -> tuple[Tensor, ...] | dict[str, Tensor] | None:
    """Inputs of the shapes given; None where there is none.

    Args:
        shapes: sizes with commas between, ``:dtype`` where it is not float32, and
            ``name=`` before them where the model takes it by name.

    Raises:
        SparsefxError: a text that is not such a shape, or names on some only.

    Example:
        >>> [(tuple(x.shape), x.dtype) for x in example_inputs(["2,8:int64"])]
        [((2, 8), torch.int64)]
        >>> example_inputs(["input_ids=1,4:int64"])
        {'input_ids': tensor([[0, 0, 0, 0]])}
    """
    named = [text.rpartition("=")[0].strip() for text in shapes]
    if not any(named):
        return tuple(map(_input, shapes)) or None
    if not all(named) or len(set(named)) < len(named):
        raise SparsefxError(
            f"inputs {', '.join(shapes)}: give each a name of its own, or none"
        )
    inputs = (_input(text.rpartition("=")[2]) for text in shapes)
    return dict(zip(named, inputs, strict=True))


def _input(text: str) -> Tensor:
    sizes, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or not isinstance(dtype, torch.dtype):
        raise SparsefxError(
            f"input {text!r} is not a shape; write sizes with commas between and, "
            "if it is not float32, the dtype: 1,3,224,224 or 1,128:int64"
        )
    # Zeros are valid as token indices too.
    return (
        torch.randn(shape, dtype=dtype)
        if dtype.is_floating_point
        else torch.zeros(shape, dtype=dtype)
    )


def sizes_of(texts: Sequence[str]) -> dict[str, int]:
    """Sizes by name.

    Raises:
        SparsefxError: a text that names no size.

    Example:
        >>> sizes_of(["batch=32"])
        {'batch': 32}
    """
    sizes = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal() or not int(number):
            raise SparsefxError(f"size {text!r} is not understood; write batch=32")
        sizes[name] = int(number)
    return sizes


def arguments_of(text: str | None) -> dict[str, Any]:
    """Keyword arguments, written as a JSON object.

    Raises:
        SparsefxError: something else.

    Example:
        >>> arguments_of('{"num_classes": 10}')
        {'num_classes': 10}
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        found = error
    if not isinstance(found, dict):
        raise SparsefxError(
            f"--kwargs {text!r} is not a JSON object; write '{{\"num_classes\": 10}}'"
        )
    return found


def budget_of(texts: Sequence[str]) -> float | str | dict[str, float | str]:
    """A budget as `transform` takes it, from what the command line was given.

    Raises:
        SparsefxError: several budgets, one of them without its cost's name.

    Example:
        >>> budget_of(["0.1"]), budget_of(["macs=10%", "params=0.2"])
        (0.1, {'macs': '10%', 'params': 0.2})
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return _amount(texts[0])
    budgets: dict[str, float | str] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        name = name.strip()
        if not amount or not name:
            raise SparsefxError(
                f"of several budgets, {text!r} does not say what it limits; write "
                "macs=0.1, params=... or bytes=..."
            )
        if name in budgets:
            raise SparsefxError(f"the budget of {name} is given twice; keep one")
        budgets[name] = _amount(amount.strip())
    return budgets


def _amount(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
