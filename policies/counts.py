"""From densities to whole units: how many each site keeps, within the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsefx.policies.allocation import Allocation, unit_prices
from sparsefx.policies.bounds import base_cost, bounds, ceil, floor, unit_share
from sparsefx.site import Site


def counts(
    allocation: Allocation, sites: Sequence[Site], budget: float, cost: str
) -> tuple[tuple[int, int], ...]:
    """Least and greatest number of kept units (weights, or groups) of each site.

    A range of densities becomes the whole numbers inside it; which of them is left
    to the weights. Where the allocation fixes every site, each keeps the floor of
    its share, and the budget left over is handed out in whole weights, largest
    fractional part first (ties in the order of sites), while it fits. So the cost is
    never above the budget, and less than one weight below it unless upper bounds
    forbid.

    Args:
        allocation: lower and upper densities by site name.
        sites: the maskable weights.
        budget: cost allowed for these sites.
        cost: name of the cost.

    Returns:
        ``(lower, upper)`` for each site, in order; equal for a fixed site.

    Example:
        >>> import sympy
        >>> from sparsefx.policies.uniform import uniform
        >>> one = {"params": sympy.Integer(1)}
        >>> pair = [Site(name, name, "linear", (5,), one) for name in "ab"]
        >>> counts(uniform(pair, 5, "params"), pair, 5, "params")
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
    rest = budget - base_cost(sites, cost)
    kept = _rounded(shares, sites, rest, unit_prices(sites, cost))
    return tuple((count, count) for count in kept)


def _rounded(
    shares: Sequence[float],
    sites: Sequence[Site],
    budget: float,
    per_unit: Sequence[float],
) -> list[int]:
    limits = [bounds(site) for site in sites]
    # Without slack, so as never to exceed the budget: a count that rounding made
    # fall just short has the largest fractional part and is handed back first.
    kept = [
        max(math.floor(d * s.units), low) if price else floor(d, s.units)
        for d, s, (low, _), price in zip(shares, sites, limits, per_unit, strict=True)
    ]
    parts = [d * s.units - n for d, s, n in zip(shares, sites, kept, strict=True)]
    order = sorted(
        (i for i in range(len(sites)) if per_unit[i] > 0), key=lambda i: -parts[i]
    )
    left = budget - math.fsum(p * n for p, n in zip(per_unit, kept, strict=True))
    # A lower bound may have rounded a share up: others give back what that costs.
    for i in reversed(order):
        if left < 0:
            taken = min(math.ceil(-left / per_unit[i]), kept[i] - limits[i][0])
            kept[i] -= taken
            left += taken * per_unit[i]
    # First one weight each, then whatever still fits: cheap sites may take more.
    for most in (1, math.inf):
        for i in order:
            room = max(limits[i][1] - kept[i], 0)
            given = int(min(most, room, max(left, 0.0) // per_unit[i]))
            kept[i] += given
            left -= given * per_unit[i]
    return kept
