"""Densities in given proportions, as large as the budgets allow."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, prices
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.solver.projection import BUDGET_SLACK


def scaled(
    sites: Sequence[Site],
    budget: float,
    cost: str,
    ratios: Sequence[float],
    budgets: Mapping[str, float] | None = None,
) -> Allocation:
    """Densities proportional to ``ratios`` within the sites' bounds.

    Finds the scale ``t`` with ``density_l = clip(t * ratio_l, lower_l, upper_l)`` and
    ``sum_l price_l * numel_l * density_l = budget``. The left side is piecewise
    linear and never falls in ``t``: the piece is found by bisection over its corners
    and solved exactly. Sites that cost nothing keep their upper bound; a budget above
    the greatest possible cost gives every site its upper bound. Of several budgets,
    the one that allows the least decides.

    Args:
        sites: the maskable weights.
        budget: cost allowed for these sites.
        cost: name of the cost.
        ratios: relative density of each site, above 0.
        budgets: all budgets by name, where there are several.

    Raises:
        BudgetError: a budget cannot be met.
    """
    every = dict(budgets or {cost: budget})
    rows = {}
    for name, amount in every.items():
        check_feasible(sites, amount, name, every)
        rows[name] = prices(sites, name)
    limits = [density_bounds(site) for site in sites]

    def cost_of(densities: Sequence[float], row: Sequence[float]) -> float:
        triples = zip(densities, row, sites, strict=True)
        return math.fsum(d * price * s.numel for d, price, s in triples)

    def solved(name: str, paid: Sequence[bool]) -> list[float]:
        def clipped(scale: float) -> list[float]:
            triples = zip(ratios, limits, paid, strict=True)
            return [
                min(max(scale * ratio, low), high) if costs else high
                for ratio, (low, high), costs in triples
            ]

        def total(scale: float) -> float:
            return cost_of(clipped(scale), rows[name])

        corners = sorted(
            {end / r for r, pair in zip(ratios, limits, strict=True) for end in pair}
        )
        if total(corners[-1]) <= every[name]:
            return clipped(corners[-1])
        right = bisect_left(corners, every[name], key=total)
        scale = corners[right]
        if right > 0:
            at_left, at_right = total(corners[right - 1]), total(corners[right])
            share = (every[name] - at_left) / (at_right - at_left)
            scale = corners[right - 1] + share * (corners[right] - corners[right - 1])
        return clipped(scale)

    found: list[float] = []
    for name, row in rows.items():  # one budget may be enough to meet all
        found = solved(name, [price > 0 for price in row])
        spent = ((cost_of(found, rows[n]), amount) for n, amount in every.items())
        if all(money <= amount * (1 + BUDGET_SLACK) for money, amount in spent):
            return planned(found, sites, budget, cost, budgets)
    paid = [any(row[i] > 0 for row in rows.values()) for i in range(len(sites))]
    plans = [solved(name, paid) for name in rows]
    least = [min(column) for column in zip(*plans, strict=True)]
    return planned(least, sites, budget, cost, budgets)
