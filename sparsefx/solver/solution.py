"""What the solver answers: a few scalars a site, which stand for all masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsefx.solver.joint_budgets import Limits

# Least and greatest magnitude that decides a site's hard mask: its threshold, and what
# the shared cutoff is there. In a sparse tail they lie apart.
Cut = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SiteMask:
    """The scalars that define the masks of one site.

    Attributes:
        mu, slope, center: soft mask ``sigmoid(slope * (|w| - center) + mu)``.
        threshold, last: hard mask, see `sparsefx.masking.masked_weight`.
        price: cost of one kept entry.
        spread: ``sum price m (1 - m)``.
        group: sites with the same number share one multiplier.
        count: entries kept by the hard mask.
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
    count: int
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
        multipliers: of each budget, for hard and for soft masks, in shares of it; NaN
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
        return tuple(site.count for site in self.sites)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Where the hard masks were decided, one pair a site."""
        return tuple(site.cut for site in self.sites)


def keep_all(sizes: Sequence[int], limits: Limits) -> Solution:
    """Masks of exactly 1 everywhere.

    Example:
        >>> limits = Limits(((2.0,), (1.0,)), (8.0, 9.0), ("macs", "params"))
        >>> keep_all([4], limits).soft_costs
        (8.0, 4.0)
    """
    several = len(limits.amounts) > 1
    unknown = (0.0 if several else math.nan,) * len(limits.amounts)
    pairs = enumerate(zip(sizes, limits.costs[0], strict=True))
    return Solution(
        sites=tuple(
            SiteMask(
                mu=math.inf,
                slope=1.0,
                center=0.0,
                threshold=-1.0,
                last=size - 1,
                price=price,
                spread=0.0,
                group=number,
                count=size,
                bought=float(size),
                cut=(0.0, 0.0),
            )
            for number, (size, price) in pairs
        ),
        soft_costs=limits.spent(sizes),
        dual=math.inf,
        sweeps=0,
        multipliers=(unknown, unknown),
        binding=((0.0,) * len(sizes),) * len(limits.amounts),
    )
