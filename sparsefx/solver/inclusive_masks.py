"""Hard masks that also keep the entry at which the budget runs out, and its ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import soft_mask
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.solver.solution import Solution


@torch.no_grad()
def inclusive(
    found: Solution,
    values: Sequence[Tensor],
    worths: Sequence[float],
    budget: float,
) -> Solution:
    """The hard masks as the authors of Spartan draw them, over one shared budget.

    The threshold is the unit value ``worth |v| / price`` of the first entry at which
    the cost reaches the budget; everything at or above it is kept. So the hard cost is
    at least the budget: above it by less than one entry, and by all ties. Soft masks
    are not touched.

    Args:
        found: masks whose cost is at most the budget.
        values: weights or values of groups, flat, one a site.
        worths: what a unit of value is worth.
        budget: cost allowed.

    Example:
        >>> from sparsefx.solver.joint_budgets import Limits
        >>> from sparsefx.solver.request import Request
        >>> from sparsefx.solver.solve import solve
        >>> w = [torch.tensor([1.0, 2.0, 2.0, 3.0])]
        >>> exact = solve(Request(
        ...     w, Limits(((1.0,),), (2.0,), ("params",)), lambda prices, sums: [1.0],
        ...     [(0, 4)], 5.0, ["w"]))
        >>> exact.counts, inclusive(exact, w, [1.0], 2.0).counts
        ((2,), (3,))
    """
    free = [i for i, site in enumerate(found.sites) if site.price > 0]
    if math.isinf(found.dual) or not free:
        return found
    price = [site.price for site in found.sites]
    units = {i: values[i].abs().double() * (worths[i] / price[i]) for i in free}
    ladder = torch.cat([units[i] for i in free])
    prices = torch.cat([torch.full_like(units[i], price[i]) for i in free])
    ranks = ladder.argsort(descending=True, stable=True)
    spent = prices[ranks].cumsum(0)
    reached = int(torch.searchsorted(spent, budget * (1 - BUDGET_SLACK)))
    edge = ladder[ranks[min(reached, len(ranks) - 1)]]
    sites = list(found.sites)
    for i in free:
        kept, size = units[i] >= edge, values[i].numel()
        magnitude = values[i].abs()
        count = int(kept.count_nonzero())
        if count == size:
            rule = -1.0, size - 1
        elif count == 0:
            top = magnitude.max()
            rule = float(torch.nextafter(top, torch.full_like(top, math.inf))), -1
        else:
            rule = float(magnitude[kept].min()), size - 1
        site = sites[i]
        m = soft_mask(magnitude[kept], site.slope, site.center, site.mu)
        sites[i] = site._replace(
            threshold=rule[0],
            last=rule[1],
            kept=count,
            bought=float(m.double().sum()),
        )
    return replace(found, sites=tuple(sites))
