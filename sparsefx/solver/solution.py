"""What the solver answers: a few scalars a site, which stand for all masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# Least and greatest magnitude that decides a site's hard mask: its threshold, and what
# the shared cutoff is there. In a sparse tail they lie apart.
Cut = tuple[float, float]


class SiteMask(NamedTuple):
    """The scalars that define the masks of one site.

    Attributes:
        mu, slope, center: soft mask ``sigmoid(slope * (|w| - center) + mu)``.
        threshold, last: hard mask, see `sparsefx.masking.masked_weight`.
        price: cost of one kept entry.
        spread: ``sum price m (1 - m)``.
        group: sites with the same number share one multiplier.
        kept: entries kept by the hard mask.
        bought: ``sum m`` over those.
        cut: where the hard mask was decided.
    """

    mu: float
    slope: float
    center: float
    threshold: float
    last: int
    price: float
    spread: float
    group: int
    kept: int
    bought: float
    cut: Cut


@dataclass(frozen=True, slots=True)
class Solution:
    """Masks of all sites within their budgets.

    Attributes:
        sites: one row a site.
        soft_costs: ``sum cost m`` over all sites, in each budget.
        dual: the shared multiplier, uncentred.
        sweeps: passes over the weights the solver took.
        multipliers: of each budget, for hard and for soft masks, in shares of it; 0
            where one budget stands alone, whose multiplier is `dual`.
        binding: what several budgets that are spent ask of each site, one row a budget;
            see `sparsefx.masking.budget_gradient`. 0 where one budget stands alone: the
            groups say it all.
    """

    sites: tuple[SiteMask, ...]
    soft_costs: tuple[float, ...]
    dual: float
    sweeps: int
    multipliers: tuple[tuple[float, ...], tuple[float, ...]]
    binding: tuple[tuple[float, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Entries that the hard masks keep, one number a site."""
        return tuple(site.kept for site in self.sites)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Where the hard masks were decided, one pair a site."""
        return tuple(site.cut for site in self.sites)


def kept_whole(number: int, size: int, price: float) -> SiteMask:
    """Masks of exactly 1.

    Example:
        >>> kept_whole(0, 4, 2.0).kept
        4
    """
    return SiteMask(
        mu=math.inf,
        slope=1.0,
        center=0.0,
        threshold=-1.0,
        last=size - 1,
        price=price,
        spread=0.0,
        group=number,
        kept=size,
        bought=float(size),
        cut=(0.0, 0.0),
    )
