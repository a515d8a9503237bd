"""Masks by the soft top-k under several budgets; `sparsefx.solver.solve_one` is one.

The hard masks come first: they say what is scarce, and so what layers cost. The soft
masks are then solved in these prices (`sparsefx.solver.hard_masks_joint`,
`sparsefx.solver.soft_masks_joint`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sparsefx.kernels import Survey
from sparsefx.kernels.mask_rule import readable
from sparsefx.solver.hard_masks_joint import solve_hard_joint
from sparsefx.solver.joint_budgets import Limits, shares_of
from sparsefx.solver.layer import Layer, check_layers
from sparsefx.solver.magnitude_histogram import check_finite
from sparsefx.solver.soft_masks_joint import solve_soft_joint
from sparsefx.solver.solve_one import MaskParameters, cuts, keep_all


def solve_joint(
    weights: Sequence[Tensor],
    limits: Limits,
    worths: Callable[[Sequence[float]], Sequence[float]],
    bounds: Sequence[tuple[int, int]],
    beta: float,
    start: Sequence[Sequence[float]],
    names: Sequence[str],
    survey: Survey,
    sharpness: Sequence[float] | None = None,
) -> MaskParameters:
    """Masks of all sites for several budgets.

    Args:
        weights: latent weights, one tensor a site.
        limits: the budgets over the sites; sites that cost nothing stay dense.
        worths: what a unit of ``|w|`` is worth in each site, given prices.
        bounds: least and greatest number of entries to keep, one pair a site.
        beta: inverse temperature.
        start: `MaskParameters.multipliers` of the last update, or NaN.
        names: the weights' names, for messages.
        survey: of the weights, see `sparsefx.solver.solve_one.look`.
        sharpness: what beta is multiplied by, one a site; 1 by default.

    Returns:
        Mask parameters; ``soft_cost`` and ``hard_cost`` are of the first budget.

    Raises:
        MaskError: a weight has NaN or infinite entries.
        BudgetError: the lower bounds cost more than a budget.

    Example:
        >>> import torch
        >>> from sparsefx.solver.solve_one import look
        >>> weights = [torch.arange(4.0), torch.arange(4.0)]
        >>> limits = Limits(((1.0, 1.0), (1.0, 0.0)), (4.0, 1.0), ("params", "macs"))
        >>> found = solve_joint(weights, limits, lambda prices: [1.0, 1.0],
        ...                     [(0, 4), (0, 4)], 5.0, ((), ()), "ab",
        ...                     look(weights, None))
        >>> found.counts, [round(cost, 4) for cost in found.soft_costs]
        ((1, 3), [4.0, 1.0])
    """
    numels = [w.numel() for w in weights]
    paid = [any(row[i] > 0 for row in limits.costs) for i in range(len(weights))]
    active = [i for i, low in enumerate(bounds) if paid[i] and low[0] < numels[i]]
    whole = [0 if i in set(active) else n for i, n in enumerate(numels)]
    spent = limits.spent(whole)
    pairs = zip(limits.amounts, spent, strict=True)
    left = replace(limits, amounts=tuple(max(k - c, 0.0) for k, c in pairs)).of(active)
    free = replace(
        keep_all(numels, limits.costs[0]),
        soft_costs=limits.spent(numels),
        hard_costs=limits.spent(numels),
        binding=((0.0,) * len(weights),) * len(spent),
        multipliers=((0.0,) * len(spent),) * 2,
    )
    if not active:
        return free
    first = worths([*limits.costs[0]])
    sharp = sharpness or [1.0] * len(weights)
    layers = [
        Layer(readable(weights[i]), 1.0, first[i], *bounds[i], sharp[i]) for i in active
    ]
    chosen = [names[i] for i in active]
    seen = survey.of(active)
    check_layers(layers, math.inf, chosen)
    check_finite(seen, chosen)
    hard = solve_hard_joint(
        layers, left, survey=seen, start=start[0] or None, names=chosen
    )
    scarce = list(hard.x) if any(hard.x) else [float(b == (hard.leader or 0))
                                              for b in range(len(spent))]  # fmt: skip
    everywhere = replace(limits, amounts=left.amounts)
    prices = shares_of(everywhere, hard.scope.live, scarce, len(weights))
    for i in range(len(weights)):  # free of what is scarce: does not count
        if not any(c[i] for c, x in zip(limits.costs, scarce, strict=True) if x):
            prices[i] = 0.0
    own = worths(prices)
    layers = [
        replace(layer, price=price, worth=own[i])
        for layer, price, i in zip(layers, hard.prices, active, strict=True)
    ]
    unit = own[active[0]] / first[active[0]]
    soft = solve_soft_joint(
        layers,
        left,
        hard,
        beta,
        survey=seen,
        cutoff=hard.masks.cutoff * unit,
        start=_first(start[1], [x * unit for x in hard.x]),
        extra=_extra(layers, left),
    )
    masks = soft.masks

    def merged(defaults: Sequence[Any], found: Sequence[Any]) -> tuple[Any, ...]:
        out = list(defaults)
        for index, value in zip(active, found, strict=True):
            out[index] = value
        return tuple(out)

    groups = {g: active[masks.groups.index(g)] for g in masks.groups}
    soft_costs = tuple(a + b for a, b in zip(spent, soft.spent, strict=True))
    kept = merged(whole, hard.masks.counts)
    nothing = (0.0,) * len(weights)
    return replace(
        free,
        mu=merged(free.mu, masks.offsets),
        slope=merged(free.slope, masks.slopes),
        center=merged(free.center, masks.centers),
        threshold=merged(free.threshold, hard.masks.thresholds),
        last=merged(free.last, hard.masks.lasts),
        price=merged(free.price, [layer.price for layer in layers]),
        spread=merged(free.spread, masks.spreads),
        group=merged(free.group, [groups[g] for g in masks.groups]),
        counts=kept,
        bought=merged(free.bought, masks.bought),
        cuts=merged(free.cuts, cuts(layers, hard.masks, hard.masks.cutoff * unit)),
        soft_cost=soft_costs[0],
        hard_cost=limits.spent(kept)[0],
        dual=masks.mu,
        sweeps=masks.sweeps,
        soft_costs=soft_costs,
        hard_costs=limits.spent(kept),
        binding=tuple(merged(nothing, row) for row in soft.binding),
        multipliers=(hard.x, soft.x),
    )


def _first(known: Sequence[float], guess: Sequence[float]) -> Sequence[float]:
    """The last multipliers, but for budgets that have only now run out."""
    if not known or not all(math.isfinite(x) for x in known):
        return guess
    return [x if x or not y else y for x, y in zip(known, guess, strict=True)]


def _extra(layers: Sequence[Layer], limits: Limits) -> float:
    """What layers of fixed counts softly keep more, to meet a budget exactly."""
    if any(layer.lower < layer.upper for layer in layers):
        return 0.0
    open_ = [float(x.upper < x.magnitude.numel()) for x in layers]
    prices = limits.spent(open_)
    spent = limits.spent([x.upper for x in layers])
    rows = zip(limits.amounts, spent, prices, strict=True)
    shares = [(amount - cost) / price for amount, cost, price in rows if price > 0]
    return min(max(min(shares), 0.0), 0.999) if shares else 0.0
