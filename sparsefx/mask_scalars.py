"""The scalars that define a site's masks, as one value; and what all masks share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsefx.layer import hard_mask, soft_mask
from sparsefx.private import is_compiling


class MaskScalars(NamedTuple):
    """A site's mask parameters, or those of all sites (`at` picks one).

    A named tuple, because operators of ``torch.library`` take it as it is: to them it
    is a list of tensors.

    Attributes:
        mu: multipliers; float64, shape () for one site, (sites,) for all.
        slope: inverse temperatures over prices, like ``mu``.
        center: magnitudes, or groups' values, on which soft masks are centred.
        threshold: magnitudes, or values, of the last kept entries.
        last: flat indices of the last entries kept at the threshold; int64.
        through: share of the gradient that dropped entries receive, in [0, 1].

    Example:
        >>> one = torch.ones(())
        >>> rule = MaskScalars(0 * one, one, one, one, torch.tensor(0), one)
        >>> a = torch.tensor([1.0, 1.0, 2.0])
        >>> rule.soft(a), rule.hard(a)
        (tensor([0.5000, 0.5000, 0.7311]), tensor([ True, False,  True]))
    """

    mu: Tensor
    slope: Tensor
    center: Tensor
    threshold: Tensor
    last: Tensor
    through: Tensor

    def at(self, index: int) -> MaskScalars:
        """The scalars of one site."""
        return MaskScalars(*[vector[index] for vector in self])

    def soft(self, values: Tensor) -> Tensor:
        """The soft mask ``m`` of entries with these values."""
        return soft_mask(values, self.slope, self.center, self.mu)

    def hard(self, values: Tensor) -> Tensor:
        """The hard mask ``h`` of entries with these values, bool."""
        return hard_mask(values, self.threshold, self.last)


def alone(total: Tensor, mu: Tensor, index: int) -> Tensor:
    """The gradient of all multipliers, where one site's is ``total``; like ``mu``.

    Example:
        >>> alone(torch.tensor(2.0), torch.zeros(3), 1)
        tensor([0., 2., 0.])
    """
    totals = mu.new_zeros(mu.shape)
    totals[index] = total
    return totals


def straight_through(kept: Tensor, masked: Tensor, share: Tensor) -> Tensor:
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
