"""Hard masks that also keep the entry at which the budget runs out, and its ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import soft_mask
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.solver.solve_one import MaskParameters


@torch.no_grad()
def inclusive(
    found: MaskParameters,
    values: Sequence[Tensor],
    worths: Sequence[float],
    budget: float,
) -> MaskParameters:
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
        >>> from sparsefx.solver.solve_one import solve
        >>> w = [torch.tensor([1.0, 2.0, 2.0, 3.0])]
        >>> exact = solve(w, [1.0], [1.0], [(0, 4)], 2.0, 5.0, None, ["w"])
        >>> exact.counts, inclusive(exact, w, [1.0], 2.0).counts
        ((2,), (3,))
    """
    free = [i for i, price in enumerate(found.price) if price > 0]
    if math.isinf(found.dual) or not free:
        return found
    units = {i: values[i].abs().double() * (worths[i] / found.price[i]) for i in free}
    ladder = torch.cat([units[i] for i in free])
    prices = torch.cat([torch.full_like(units[i], found.price[i]) for i in free])
    ranks = ladder.argsort(descending=True, stable=True)
    spent = prices[ranks].cumsum(0)
    reached = int(torch.searchsorted(spent, budget * (1 - BUDGET_SLACK)))
    edge = ladder[ranks[min(reached, len(ranks) - 1)]]
    rows = {name: list(getattr(found, name)) for name in _RULES}
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
        m = soft_mask(magnitude[kept], found.slope[i], found.center[i], found.mu[i])
        row = (*rule, count, float(m.double().sum()))
        for name, value in zip(_RULES, row, strict=True):
            rows[name][i] = value
    counts = tuple(rows["counts"])
    pairs = zip(found.price, counts, strict=True)
    return replace(
        found,
        threshold=tuple(rows["threshold"]),
        last=tuple(rows["last"]),
        counts=counts,
        bought=tuple(rows["bought"]),
        hard_cost=math.fsum(price * count for price, count in pairs),
    )


_RULES = ("threshold", "last", "counts", "bought")
