"""The scalars that define a site's soft mask, as one value; what masks share."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefx.torch_internals import is_compiling


class MaskScalars(NamedTuple):
    """A site's mask parameters, or those of all sites (`at` picks one).

    A named tuple, because operators of ``torch.library`` take it as it is: to them it
    is a list of tensors.

    Attributes:
        mu: multipliers; float64, shape () for one site, (sites,) for all.
        slope: inverse temperatures over prices, like ``mu``.
        center: magnitudes, or groups' values, on which soft masks are centred.

    Example:
        >>> one = torch.ones(())
        >>> MaskScalars(0 * one, one, one).soft(torch.tensor([1.0, 1.0, 2.0]))
        tensor([0.5000, 0.5000, 0.7311])
    """

    mu: Tensor
    slope: Tensor
    center: Tensor

    def at(self, index: int) -> MaskScalars:
        """The scalars of one site."""
        return MaskScalars(*[vector[index] for vector in self])

    def soft(self, values: Tensor) -> Tensor:
        """The soft mask ``m`` of entries with these values."""
        return soft_mask(values, self.slope, self.center, self.mu)


def alone(total: Tensor, mu: Tensor, index: int) -> Tensor:
    """The gradient of all multipliers, where one site's is ``total``; like ``mu``.

    Example:
        >>> alone(torch.tensor(2.0), torch.zeros(3), 1)
        tensor([0., 2., 0.])
    """
    totals = mu.new_zeros(mu.shape)
    totals[index] = total
    return totals


def straight_through(
    kept: Tensor, masked: Tensor, share: Tensor | float = 1.0
) -> Tensor:
    """``h * masked`` whose dropped entries pass a share of the gradient on.

    In plain operations, for vmap and its like.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> kept = torch.tensor([True, False])
        >>> seen = straight_through(kept, 2 * w, torch.tensor(0.5))
        >>> seen.sum().backward()
        >>> seen.tolist(), w.grad
        ([6.0, 0.0], tensor([2., 1.]))
    """
    return torch.where(kept, masked, (masked - masked.detach()) * share)


def flagged(out: Tensor, weight: Tensor) -> Tensor:
    """What a layer sees of a weight, flagged as the weight where no graph is made.

    matmul folds its batch differently when the weight needs no gradient: with the flag
    kept, density 1 is the identity, bitwise.
    """
    if weight.requires_grad and not torch.is_grad_enabled() and not is_compiling():
        if not torch.is_inference_mode_enabled():
            out.requires_grad_(True)
    return out


def wide(values: Tensor) -> Tensor:
    """The values at least in float32."""
    return values if values.dtype.itemsize >= 4 else values.float()


def magnitude(weight: Tensor) -> Tensor:
    """``|w|`` without gradient, at least in float32."""
    return wide(weight.detach().abs())


def readable(weight: Tensor) -> Tensor:
    """The weight, flat, in a dtype the solver reads; itself where that is possible.

    Example:
        >>> readable(torch.ones(1, 1, dtype=torch.bfloat16))
        tensor([1.])
    """
    if not isinstance(weight, Tensor):
        return weight  # a shard, which is readable
    if weight.ndim == 1 and not weight.requires_grad:
        return wide(weight)  # as it is: every stage of a step asks this again
    return wide(weight.detach().reshape(-1))


def rounded(number: float, dtype: torch.dtype) -> float:
    """The number as a tensor of that dtype, float32 or float64, holds it.

    Example:
        >>> rounded(2.0**24 + 1, torch.float32) == 2.0**24
        True
    """
    return ctypes.c_float(number).value if dtype is torch.float32 else number


def soft_mask(
    magnitude: Tensor,
    slope: Tensor | float,
    center: Tensor | float,
    offset: Tensor | float,
) -> Tensor:
    """The soft mask ``sigmoid((magnitude - center) * slope + offset)``.

    Subtracting first is exact near the center, where the mask is decided.

    Example:
        >>> soft_mask(torch.tensor([0.0, 1.0]), 2.0, 1.0, 0.0)
        tensor([0.1192, 0.5000])
    """
    return torch.sigmoid((magnitude - center) * slope + offset)


def hard_mask(
    magnitude: Tensor, threshold: Tensor | float, last: Tensor | int, start: int = 0
) -> Tensor:
    """The bool mask of a rule: above the threshold, or equal and not after `last`.

    The magnitudes are a piece of a weight that begins at its flat index `start`.

    Example:
        >>> hard_mask(torch.tensor([2.0, 1.0, 3.0, 2.0]), 2.0, 0).tolist()
        [True, False, True, False]
    """
    end = start + magnitude.numel()
    if isinstance(last, int) and not start <= last < end - 1:
        return magnitude > threshold if last < start else magnitude >= threshold
    index = torch.arange(start, end, device=magnitude.device)
    tied = (magnitude == threshold) & (index <= last).reshape(magnitude.shape)
    return (magnitude > threshold) | tied
