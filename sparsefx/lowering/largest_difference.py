"""How far apart outputs are."""

from __future__ import annotations

from torch import Tensor


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """``max |found - wanted|`` over ``max |wanted|``; infinity for other shapes.

    Example:
        >>> import torch
        >>> largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        0.5
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not wanted.numel():
        return 0.0
    size = wanted.abs().max().double().item()
    gap = (found.double() - wanted.double()).abs().max().item()
    return gap / size if size else gap
