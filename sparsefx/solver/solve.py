r"""The door to the solver: magnitudes, costs, bounds and budgets in, all masks out.

At each update the magnitudes decide anew. The hard masks are the entries of greatest
value that the budgets pay for; they say what is scarce, and so what an entry of each
layer costs. In these prices the soft masks ``m`` solve

    maximise   sum_i worth |w_i| m_i + (1/beta) sum_i price H(m_i)
    subject to sum_i cost_b m_i <= budget_b,  lower_l <= sum_{i in l} m_i <= upper_l

and what is scarce is spent to 1e-6. One budget is several with one row: its hard masks
are the largest prefix by ``worth |w| / price`` (`sparsefx.solver.hard_masks`), its soft
ones share one multiplier (`sparsefx.solver.soft_masks`), and no linear program is
needed.

Source: Tai, Tian, Lim, "Spartan: Differentiable Sparsity via Regularized
Transportation", 2022 (arXiv 2205.14107).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsefx.kernels import Survey
from sparsefx.kernels.mask_rule import readable
from sparsefx.solver.hard_masks import HardMasks, solve_hard
from sparsefx.solver.hard_masks_joint import JointHard, solve_hard_joint
from sparsefx.solver.inclusive_masks import inclusive
from sparsefx.solver.joint_budgets import Limits, shares_of
from sparsefx.solver.layer import Layer
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.soft_masks import solve_soft
from sparsefx.solver.soft_masks_joint import solve_soft_joint
from sparsefx.solver.soft_problem import SoftMasks
from sparsefx.solver.solution import SiteMask, Solution, kept_whole
from sparsefx.solver.survey_bands import cuts, look


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """The sites whose masks are to be decided.

    Attributes:
        request: what was asked, of all sites.
        places: numbers of the open sites.
        layers: the open sites, in the prices and worths of the first budget.
        left: the budgets over all sites, without what the others cost.
        survey: of all sites.
        warm: what is known.
    """

    request: Request
    places: Sequence[int]
    layers: Sequence[Layer]
    left: Limits
    survey: Survey
    warm: Warm

    @property
    def names(self) -> list[str]:
        return [self.request.names[i] for i in self.places]


@dataclass(frozen=True, slots=True)
class _Decided:
    """Masks of the open sites, as layers of the prices and worths that decided."""

    layers: Sequence[Layer]
    hard: HardMasks
    soft: SoftMasks
    multipliers: tuple[tuple[float, ...], tuple[float, ...]]
    binding: Sequence[Sequence[float]]


def solve(request: Request, warm: Warm | None = None) -> Solution:
    """Masks of all sites within all budgets.

    Raises:
        MaskError: a value is NaN or infinite.
        BudgetError: what must be kept costs more than a budget.

    Example:
        >>> import torch
        >>> limits = Limits(((1.0, 1.0), (1.0, 0.0)), (4.0, 1.0), ("params", "macs"))
        >>> request = Request(
        ...     values=[torch.arange(4.0), torch.arange(4.0)], limits=limits,
        ...     worths=lambda prices, sums: [1.0, 1.0], bounds=[(0, 4), (0, 4)],
        ...     beta=5.0, names="ab")
        >>> found = solve(request)
        >>> found.counts, [round(cost, 4) for cost in found.soft_costs]
        ((1, 3), [4.0, 1.0])
    """
    warm = warm or Warm()
    limits, bounds = request.limits, request.bounds
    sizes = [value.numel() for value in request.values]
    survey = look(request.values, warm.cuts)
    worths = request.worths(limits.costs[0], survey.sums)
    paid = [any(row[i] > 0 for row in limits.costs) for i in range(len(sizes))]
    places = [i for i, (low, _) in enumerate(bounds) if paid[i] and low < sizes[i]]
    found = _nothing(limits)
    if places:
        sharpness = request.sharpness or [1.0] * len(sizes)
        layers = [
            Layer(
                readable(request.values[i]),
                limits.costs[0][i] or 1.0,
                worths[i],
                *bounds[i],
                sharpness[i],
            )
            for i in places
        ]
        closed = list(sizes)
        for i in places:
            closed[i] = 0
        left = limits.without(closed)
        decide = _alone if len(limits.amounts) == 1 else _together
        found = decide(_Open(request, places, layers, left, survey, warm))
    solution = _placed(limits, sizes, places, found)
    if request.inclusive:
        return inclusive(solution, request.values, worths, limits.amounts[0])
    return solution


def _nothing(limits: Limits) -> _Decided:
    """Where no site is open."""
    x = (0.0,) * len(limits.amounts)
    hard, soft = HardMasks((), (), 0.0), SoftMasks((), (), math.inf, 0)
    return _Decided((), hard, soft, (x, x), ((),) * len(x))


def _alone(open_: _Open) -> _Decided:
    """One budget: the greedy purchase, and one multiplier."""
    layers, limits = open_.layers, open_.left.of(open_.places)
    (budget,), beta = limits.amounts, open_.request.beta
    seen, warm = open_.survey.of(open_.places), open_.warm.of(open_.places)
    hard = solve_hard(layers, budget, names=open_.names, survey=seen)
    extra = _extra(layers, limits)
    soft = solve_soft(layers, budget, beta, hard, survey=seen, warm=warm, extra=extra)
    none = (0.0,)
    return _Decided(layers, hard, soft, (none, none), ((0.0,) * len(layers),))


def _together(open_: _Open) -> _Decided:
    """Several budgets: the hard masks say what is scarce, and so what layers cost."""
    request, places, left = open_.request, open_.places, open_.left
    limits, seen = left.of(places), open_.survey.of(places)
    before_hard, before_soft = open_.warm.multipliers
    hard = solve_hard_joint(
        open_.layers, limits, survey=seen, start=before_hard or None, names=open_.names
    )
    own = request.worths(_prices(left, hard), open_.survey.sums)
    layers = [
        replace(layer, price=price, worth=own[i])
        for layer, price, i in zip(open_.layers, hard.prices, places, strict=True)
    ]
    unit = layers[0].worth / open_.layers[0].worth
    masks = replace(hard.masks, cutoff=hard.masks.cutoff * unit)
    soft = solve_soft_joint(
        layers,
        limits,
        replace(hard, masks=masks),
        request.beta,
        survey=seen,
        start=_first(before_soft, [x * unit for x in hard.x]),
        extra=_extra(layers, limits),
    )
    return _Decided(layers, masks, soft.masks, (hard.x, soft.x), soft.binding)


def _prices(limits: Limits, hard: JointHard) -> list[float]:
    """What an entry of every site costs in what is scarce; 0 where nothing of it is."""
    scarce = list(hard.x)
    if not any(scarce):
        scarce[hard.leader or 0] = 1.0
    prices = shares_of(limits, scarce)
    return [
        price if any(row[i] for row, x in zip(limits.costs, scarce, strict=True) if x)
        else 0.0
        for i, price in enumerate(prices)
    ]  # fmt: skip


def _placed(
    limits: Limits, sizes: Sequence[int], places: Sequence[int], found: _Decided
) -> Solution:
    """The masks of all sites: those found at the open places, elsewhere all is kept."""
    hard, soft = found.hard, found.soft
    # a group bears the number of its first site
    groups = dict(zip(reversed(soft.groups), reversed(places), strict=True))
    where, sites, kept = cuts(found.layers, hard), {}, list(sizes)
    binding = [[0.0] * len(sizes) for _ in limits.amounts]
    softly = [0.0] * len(sizes)
    for k, i in enumerate(places):
        mask, rule, price = soft.rows[k], hard.rules[k], found.layers[k].price
        sites[i] = SiteMask(
            mu=mask.offset,
            slope=mask.slope,
            center=mask.center,
            threshold=rule.threshold,
            last=rule.last,
            price=price,
            spread=price * mask.spread,
            group=groups[soft.groups[k]],
            kept=hard.counts[k],
            bought=mask.bought,
            cut=where[k],
        )
        kept[i], softly[i] = 0, mask.kept
        for row, own in zip(binding, found.binding, strict=True):
            row[i] = own[k]
    for i, size in enumerate(sizes):
        if i not in sites:
            sites[i] = kept_whole(i, size, limits.costs[0][i])
    pairs = zip(limits.spent(kept), limits.spent(softly), strict=True)
    return Solution(
        sites=tuple(sites[i] for i in range(len(sizes))),
        soft_costs=tuple(whole + part for whole, part in pairs),
        dual=soft.mu,
        sweeps=soft.sweeps,
        multipliers=found.multipliers,
        binding=tuple(map(tuple, binding)),
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
