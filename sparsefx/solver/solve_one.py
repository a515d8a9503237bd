r"""Masks by regularised optimal transport: the soft top-k under a cost budget.

At each update the magnitudes decide anew: the hard masks are the largest prefix by
``worth |w| / price`` that the budget pays, the soft masks ``m`` solve

    maximise   sum_i worth |w_i| m_i + (1/beta) sum_i price H(m_i)
    subject to sum_i price m_i = budget,  lower_l <= sum_{i in l} m_i <= upper_l

Source: Tai, Tian, Lim, "Spartan: Differentiable Sparsity via Regularized
Transportation", 2022 (arXiv 2205.14107). The budget is met to 1e-6 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sparsefx.kernels import Survey, kernels_for
from sparsefx.kernels.mask_rule import readable, rounded
from sparsefx.solver.hard_masks import HardMasks, solve_hard
from sparsefx.solver.layer import Layer
from sparsefx.solver.soft_masks import solve_soft

_WHOLE = 1024  # weights of at most so many entries are gathered whole
# By what the band is wider than the cuts at both ends, relative; 1/sqrt(entries) times
# _SPREAD where that is more.
_WIDTH = 0.005
_SPREAD = 2.0


# Least and greatest magnitude that decides a site's hard mask: its threshold, and what
# the shared cutoff is there. In a sparse tail they lie apart.
Cuts = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class MaskParameters:
    """The scalars that define every mask; one entry a site.

    Attributes:
        mu, slope, center: soft mask ``sigmoid(slope * (|w| - center) + mu)``.
        threshold, last: hard mask, see `sparsefx.masking.masked_weight`.
        price: cost of one kept entry.
        spread: ``sum price m (1 - m)``.
        group: sites with the same number share one multiplier.
        counts: entries kept by the hard mask.
        bought: ``sum m`` over those.
        cuts: where the hard masks were decided, see `Cuts`.
        soft_cost: ``sum price m`` over all sites.
        hard_cost: ``sum price * counts``.
        dual: the shared multiplier, uncentred.
        sweeps: passes over the weights the solver took.
        soft_costs, hard_costs: both costs in each of several budgets; () for one.
        binding, multipliers: of several budgets, see `sparsefx.masking.sparse_state`;
            () for one.
    """

    mu: tuple[float, ...]
    slope: tuple[float, ...]
    center: tuple[float, ...]
    threshold: tuple[float, ...]
    last: tuple[int, ...]
    price: tuple[float, ...]
    spread: tuple[float, ...]
    group: tuple[int, ...]
    counts: tuple[int, ...]
    bought: tuple[float, ...]
    cuts: Cuts
    soft_cost: float
    hard_cost: float
    dual: float
    sweeps: int
    soft_costs: tuple[float, ...] = ()
    hard_costs: tuple[float, ...] = ()
    binding: tuple[tuple[float, ...], ...] = ()
    multipliers: tuple[tuple[float, ...], ...] = ()


def keep_all(numels: Sequence[int], prices: Sequence[float]) -> MaskParameters:
    """Masks of exactly 1 everywhere.

    Example:
        >>> keep_all([4], [2.0]).hard_cost
        8.0
    """
    count = len(numels)
    cost = math.fsum(n * p for n, p in zip(numels, prices, strict=True))
    return MaskParameters(
        mu=(math.inf,) * count,
        slope=(1.0,) * count,
        center=(0.0,) * count,
        threshold=(-1.0,) * count,
        last=tuple(n - 1 for n in numels),
        price=tuple(prices),
        spread=(0.0,) * count,
        group=tuple(range(count)),
        counts=tuple(numels),
        bought=tuple(map(float, numels)),
        cuts=((0.0, 0.0),) * count,
        soft_cost=cost,
        hard_cost=cost,
        dual=math.inf,
        sweeps=0,
    )


def solve(
    weights: Sequence[Tensor],
    prices: Sequence[float],
    worths: Sequence[float],
    limits: Sequence[tuple[int, int]],
    budget: float,
    beta: float,
    start: float | None,
    names: Sequence[str],
    survey: Survey | None = None,
    middles: Sequence[float] | None = None,
    sharpness: Sequence[float] | None = None,
) -> MaskParameters:
    """Masks of all sites for one budget.

    Args:
        weights: latent weights, one tensor a site.
        prices: cost of one kept entry of each site; sites that cost nothing stay dense.
        worths: what a unit of ``|w|`` is worth, one a site.
        limits: least and greatest number of entries to keep, one pair a site.
        budget: cost allowed, in the unit of the prices.
        beta: inverse temperature.
        start: the previous shared multiplier, scaled to this beta; only saves sweeps.
        names: the weights' names, for messages.
        survey: of the weights, see `look`; saves sweeps.
        sharpness: what beta is multiplied by, one a site; 1 by default.
        middles: magnitudes at which the last soft masks were 1/2; saves sweeps.

    Raises:
        MaskError: a weight has NaN or infinite entries.
        BudgetError: the lower limits cost more than the budget.
    """
    numels = [w.numel() for w in weights]
    free = keep_all(numels, prices)
    active = [i for i, p in enumerate(prices) if p > 0 and limits[i][0] < numels[i]]
    spent = math.fsum(
        prices[i] * numels[i] for i in range(len(weights)) if i not in active
    )
    if not active:
        return free
    sharp = sharpness or [1.0] * len(weights)
    layers = [
        Layer(readable(weights[i]), prices[i], worths[i], *limits[i], sharp[i])
        for i in active
    ]
    chosen = [names[i] for i in active]
    seen = survey.of(active) if survey is not None else None
    hard = solve_hard(layers, budget - spent, names=chosen, survey=seen)
    soft = solve_soft(
        layers,
        budget - spent,
        beta,
        hard.cutoff,
        start,
        names=chosen,
        survey=seen,
        hard=hard,
        extra=_extra(layers, budget - spent),
        middles=None if middles is None else [middles[i] for i in active],
    )

    def merged(defaults: Sequence[Any], found: Sequence[Any]) -> tuple[Any, ...]:
        out = list(defaults)
        for index, value in zip(active, found, strict=True):
            out[index] = value
        return tuple(out)

    # groups of the solver are numbered within the active layers: 0 is the shared one
    first = {g: active[soft.groups.index(g)] for g in soft.groups}
    return replace(
        free,
        mu=merged(free.mu, soft.offsets),
        slope=merged(free.slope, soft.slopes),
        center=merged(free.center, soft.centers),
        threshold=merged(free.threshold, hard.thresholds),
        last=merged(free.last, hard.lasts),
        spread=merged(free.spread, soft.spreads),
        group=merged(free.group, [first[g] for g in soft.groups]),
        counts=merged(free.counts, hard.counts),
        bought=merged(free.bought, soft.bought),
        cuts=merged(free.cuts, cuts(layers, hard, hard.cutoff)),
        soft_cost=spent + soft.cost,
        hard_cost=spent + hard.cost,
        dual=soft.mu,
        sweeps=soft.sweeps,
    )


def _extra(layers: Sequence[Layer], budget: float) -> float:
    """What layers of fixed counts softly keep more, to meet the budget exactly."""
    if any(layer.lower < layer.upper for layer in layers):
        return 0.0
    open_ = [x for x in layers if x.upper < x.magnitude.numel()]
    left = budget - math.fsum(x.price * x.upper for x in layers)
    price = math.fsum(x.price for x in open_)
    return min(max(left / price, 0.0), 0.999) if price else 0.0


def cuts(layers: Sequence[Layer], hard: HardMasks, cutoff: float) -> Cuts:
    """Where these masks were decided, one pair a layer.

    A layer held at its greatest count, or at a least one of many entries, is decided by
    its own threshold alone; one that keeps all or none, by the cutoff alone.
    """
    found = []
    for layer, count, own in zip(layers, hard.counts, hard.thresholds, strict=True):
        shared = cutoff * layer.price / layer.worth
        if not 0 < count < layer.magnitude.numel():
            own = shared
        elif count == layer.upper or count == layer.lower > _WHOLE:
            shared = own
        found.append((min(own, shared), max(own, shared)))
    return tuple(found)


def ahead(now: Cuts, before: Cuts | None) -> Cuts:
    """Where masks are decided next: as now, or as much further as since before.

    Example:
        >>> ahead(((2.0, 3.0),), ((1.5, 3.5),))
        ((2.0, 3.0),)
        >>> ahead(((2.0, 3.0),), ((1.5, 2.5),))
        ((2.0, 3.5),)
    """
    pairs = zip(now, before or now, strict=True)
    return tuple(
        (min(low, 2.0 * low - old_low), max(high, 2.0 * high - old_high))
        for (low, high), (old_low, old_high) in pairs
    )


def look(weights: Sequence[Tensor], near: Cuts | None) -> Survey:
    """One sweep over the weights, which gathers the magnitudes about `near`.

    The next masks are expected to be decided there: a step of training moves
    magnitudes little. Small weights are gathered whole; a few entries may jump.

    Args:
        weights: latent weights, one tensor a site, any shape.
        near: magnitudes between which masks may be decided, or None.
    """
    flats = [readable(weight) for weight in weights]
    lows, highs = [0.0] * len(flats), [0.0] * len(flats)
    for i, (low, high) in enumerate(near or ()):
        size = flats[i].numel()
        if size <= _WHOLE:
            highs[i] = math.inf
            continue
        width = max(_WIDTH, _SPREAD / math.sqrt(size))
        lows[i] = rounded(low * (1.0 - width), flats[i].dtype)
        highs[i] = rounded(high * (1.0 + width), flats[i].dtype)
    return kernels_for(flats).survey(flats, lows, highs)
