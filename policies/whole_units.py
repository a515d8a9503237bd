"""From densities to whole units: how many each site keeps, within the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, unit_prices
from sparsefx.policies.unit_bounds import base_cost, bounds, ceil, floor, unit_share


def counts(
    allocation: Allocation, sites: Sequence[Site], budgets: Mapping[str, float]
) -> tuple[tuple[int, int], ...]:
    """Least and greatest number of kept units (weights, or groups) of each site.

    A range of densities becomes the whole numbers inside it; which of them is left
    to the weights. Where the allocation fixes every site, each keeps the floor of
    its share, and the budget left over is handed out in whole weights, largest
    fractional part first (ties in the order of sites), while it fits. So the cost is
    never above a budget, and no unit could be added to a site that costs anything
    unless upper bounds forbid.

    Args:
        allocation: lower and upper densities by site name.
        sites: the maskable weights.
        budgets: cost allowed for these sites, by name.

    Returns:
        ``(lower, upper)`` for each site, in order; equal for a fixed site.

    Example:
        >>> import sympy
        >>> from sparsefx.policies.uniform import uniform
        >>> one = {"params": sympy.Integer(1)}
        >>> pair = [Site(name, name, "linear", (5,), one) for name in "ab"]
        >>> counts(uniform(pair, 5, "params"), pair, {"params": 5})
        ((3, 3), (2, 2))
    """
    lower = [allocation.lower[site.name] for site in sites]
    upper = [allocation.upper[site.name] for site in sites]
    if lower != upper:
        highest = [
            floor(unit_share(s, d), s.units) for d, s in zip(upper, sites, strict=True)
        ]
        lowest = [
            max(ceil(unit_share(s, d), s.units), 0)
            for d, s in zip(lower, sites, strict=True)
        ]
        return tuple(
            (min(low, high), high) for low, high in zip(lowest, highest, strict=True)
        )
    shares = [max(unit_share(s, d), 0.0) for d, s in zip(lower, sites, strict=True)]
    amounts = [limit - base_cost(sites, cost) for cost, limit in budgets.items()]
    rows = [unit_prices(sites, cost) for cost in budgets]
    kept = _rounded(shares, sites, amounts, rows)
    return tuple((count, count) for count in kept)


def _rounded(
    shares: Sequence[float],
    sites: Sequence[Site],
    amounts: Sequence[float],
    rows: Sequence[Sequence[float]],
) -> list[int]:
    limits = [bounds(site) for site in sites]
    paid = [any(row[i] > 0 for row in rows) for i in range(len(sites))]
    # Without slack, so as never to exceed the budget: a count that rounding made
    # fall just short has the largest fractional part and is handed back first.
    kept = [
        max(math.floor(d * s.units), low) if costs else floor(d, s.units)
        for d, s, (low, _), costs in zip(shares, sites, limits, paid, strict=True)
    ]
    parts = [d * s.units - n for d, s, n in zip(shares, sites, kept, strict=True)]
    order = sorted((i for i in range(len(sites)) if paid[i]), key=lambda i: -parts[i])
    left = [
        amount - math.fsum(p * n for p, n in zip(row, kept, strict=True))
        for amount, row in zip(amounts, rows, strict=True)
    ]

    def move(i: int, count: int) -> None:
        kept[i] += count
        for b, row in enumerate(rows):
            left[b] -= count * row[i]

    # A lower bound may have rounded a share up: others give back what that costs.
    for b, row in enumerate(rows):
        for i in reversed(order):
            if left[b] < 0 < row[i]:
                back = math.ceil(-left[b] / row[i])
                move(i, -min(back, kept[i] - limits[i][0]))
    # First one weight each, then whatever still fits: cheap sites may take more.
    for most in (1, math.inf):
        for i in order:
            room: float = max(limits[i][1] - kept[i], 0)
            for money, row in zip(left, rows, strict=True):
                if row[i] > 0:
                    room = min(room, max(money, 0.0) // row[i])
            move(i, int(min(most, room)))
    return kept
