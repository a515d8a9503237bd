"""Activations that sparse products apply to their sums while these are in the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional

# Their places are the numbers that activations.h knows them by.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}
_NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}


def activation_number(name: str) -> int:
    """What activations.h calls it.

    Example:
        >>> activation_number("none"), activation_number("relu")
        (0, 1)
    """
    return _NUMBERS[name]
