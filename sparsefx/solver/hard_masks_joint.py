r"""Hard masks under several budgets: the linear program over counts, rounded to fit.

    maximise   sum_l w_l (sum of the K_l largest a_l)
    subject to sum_l c_bl K_l <= k_b  for every b,   lower_l <= K_l <= upper_l

Its duals x give the layers one price together, ``p_l = sum_b x_b c_bl``: what a layer
costs in what is scarce. They are found from very sharp soft masks, whose counts differ
from the program's by terms of second order in the sharpness. Whole counts below them,
and then what still fits, make the masks: no budget is exceeded, and no entry could be
added. Where only one budget runs out, the masks are those of that budget alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sparsefx.kernels import Survey, kernels_for
from sparsefx.kernels.mask_rule import readable
from sparsefx.solver.budget_multipliers import Prices, solve_multipliers
from sparsefx.solver.count_curves import Curves
from sparsefx.solver.hard_masks import HardMasks, solve_hard
from sparsefx.solver.joint_budgets import Limits, Scope, scope, shares_of
from sparsefx.solver.layer import Layer, check_layers
from sparsefx.solver.magnitude_histogram import check_finite
from sparsefx.solver.soft_problem import Problem
from sparsefx.solver.whole_counts import rules_of, whole_counts

# Sharpness, in units of one over the mean unit value: where to begin without a guess,
# and where to end.
_FIRST, _LAST, _FACTOR = 16.0, 2048.0, 8.0
_MIXED = 0.05  # of the prices is shared evenly, so that none is 0 before it is known
_RTOL = 1e-6


@dataclass(frozen=True, slots=True)
class JointHard:
    """Hard masks under several budgets.

    Attributes:
        masks: the masks; their cutoff is in the prices here.
        scope: what is decided by bounds alone.
        x: multiplier of each budget, in shares of it; 0 where it does not run out.
        prices: of the layers, the budgets weighted by their multipliers.
        leader: the budget that is spent in any case, or None where none runs out.
    """

    masks: HardMasks
    scope: Scope
    x: tuple[float, ...]
    prices: tuple[float, ...]
    leader: int | None


def solve_hard_joint(
    layers: Sequence[Layer],
    limits: Limits,
    *,
    survey: Survey | None = None,
    start: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> JointHard:
    """Keeps the entries of greatest value that several budgets pay for together.

    Args:
        layers: what may be kept; their prices do not count.
        limits: the budgets, over the same layers.
        survey: of the layers, with bands around the expected thresholds.
        start: `JointHard.x` of the last masks; saves sweeps.
        names: of the layers, for errors.

    Raises:
        BudgetError: a budget is below the cost of the lower bounds.
        MaskError: a layer is ill-formed, or has NaN or infinite magnitudes.

    Example:
        >>> big = Layer(torch.tensor([4.0, 1.0, 3.0]), 1.0, 1.0, 0, 3)
        >>> small = Layer(torch.tensor([2.0, 0.5]), 1.0, 1.0, 0, 2)
        >>> limits = Limits(((1.0, 1.0), (1.0, 0.0)), (3.0, 1.0), ("params", "macs"))
        >>> solve_hard_joint([big, small], limits).masks.counts
        (1, 2)
    """
    labels = check_layers(layers, math.inf, names)
    if survey is None:
        flats, none = [readable(x.magnitude) for x in layers], [0.0] * len(layers)
        survey = kernels_for(flats).survey(flats, none, none)
    check_finite(survey, labels)
    found = scope(layers, limits)
    x = [0.0] * len(limits.amounts)
    counts = [found.held.get(i, 0) for i in range(len(layers))]
    if len(found.live) == 1:
        x[found.live[0]] = 1.0
    elif found.live:
        x, soft = _sharp(layers, limits, found, survey, start)
        counts = whole_counts(layers, limits, found, soft)
    priced, prices, leader = _priced(layers, limits, found, x, counts)
    alone = None
    if sum(value > 0 for value in x) == 1 and leader is not None:
        alone = _alone(priced, limits, found, leader, survey, labels)
    if alone is not None and leader is not None:
        unit = max(alone.cutoff, 1e-300) * limits.amounts[leader]
        x = [unit if b == leader else 0.0 for b in range(len(x))]
        return JointHard(alone, found, tuple(x), tuple(prices), leader)
    rules = rules_of(layers, counts, survey, labels)
    values = sorted(
        max(rules[i].threshold, 0.0) * priced[i].worth / prices[i]
        for i in found.free
        if layers[i].lower < counts[i] < layers[i].upper
    )
    cutoff = values[len(values) // 2] if values else 0.0
    masks = HardMasks(tuple(counts), tuple(rules), cutoff)
    return JointHard(masks, found, tuple(x), tuple(prices), leader)


def _sharp(
    layers: Sequence[Layer],
    limits: Limits,
    found: Scope,
    survey: Survey,
    start: Sequence[float] | None,
) -> tuple[list[float], dict[int, float]]:
    """Multipliers and counts of very sharp soft masks, by number of the layer."""
    live, free = list(found.live), list(found.free)
    known = start is not None and all(math.isfinite(v) for v in start)
    guess = [max(v, 0.0) for v in start] if known and start is not None else []
    known = any(guess[b] for b in live) if guess else False
    weights = [float(b in live) for b in range(len(limits.amounts))]
    if known:
        most = max(guess[b] for b in live)
        weights = [max(guess[b], _MIXED * most) * w for b, w in enumerate(weights)]
    own = shares_of(limits, weights)
    pairs = zip(layers, own, strict=True)
    priced = [replace(x, price=p, sharpness=1.0) for x, p in pairs]
    mean = _mean_unit(priced, survey)
    prices = share_prices(priced, limits, found, None)
    x = [guess[b] for b in live] if known else [mean / len(live)] * len(live)
    beta = (_LAST if known else _FIRST) / mean
    while True:
        problem = Problem(priced, beta, 0.0, survey, rtol=_RTOL)
        x, nus = meet(problem, prices, free, x, _RTOL)
        if beta >= 0.99 * _LAST / mean:
            break
        beta = min(beta * _FACTOR, _LAST / mean)
    every = [0.0] * len(limits.amounts)
    for b, value in zip(live, x, strict=True):
        every[b] = value
    kept = [state.kept for state in problem.each(free, nus)]
    return every, dict(zip(free, kept, strict=True))


def share_prices(
    layers: Sequence[Layer], limits: Limits, found: Scope, leader: int | None
) -> Prices:
    """What the live budgets ask of the free layers."""
    live, free = found.live, found.free
    shares = limits.shares(live)
    costs = torch.tensor([[row[i] for i in free] for row in shares]).double()
    own = torch.tensor([layers[i].price for i in free], dtype=torch.float64)
    spent = [
        math.fsum(row[i] * count for i, count in found.held.items()) for row in shares
    ]
    targets = 1.0 - torch.tensor(spent, dtype=torch.float64)
    place = live.index(leader) if leader in live else None
    return Prices(costs.reshape(len(live), len(free)), costs / own, targets, place)


def meet(
    problem: Problem,
    prices: Prices,
    free: Sequence[int],
    start: Sequence[float],
    rtol: float,
) -> tuple[list[float], list[float]]:
    """Multipliers that meet the budgets, and the `nu` of the free layers."""
    layers = [problem.layers[i] for i in free]
    bounds = [(float(x.lower), float(x.upper)) for x in layers]
    curves = Curves(
        [problem.sizes[i] for i in free],
        [low for low, _ in bounds],
        [high for _, high in bounds],
        [problem.ends(i) for i in free],
    )

    def sweep(nus: list[float]) -> tuple[list[float], list[float], list[float]]:
        states = problem.each(free, nus)
        kept = [state.kept for state in states]
        pairs = zip(kept, bounds, strict=True)
        clamped = [min(max(k, low), high) for k, (low, high) in pairs]
        return clamped, kept, [state.spread for state in states]

    x, nus = solve_multipliers(
        sweep, curves, prices, problem.beta, problem.cutoff, start, rtol
    )
    return x, nus


def _mean_unit(layers: Sequence[Layer], survey: Survey) -> float:
    """Mean unit value of all entries; 1 where all are zero."""
    rows = zip(layers, survey.sums, strict=True)
    total = math.fsum(x.worth * a / x.price for x, a in rows)
    return total / max(sum(x.magnitude.numel() for x in layers), 1) or 1.0


def _priced(
    layers: Sequence[Layer],
    limits: Limits,
    found: Scope,
    x: Sequence[float],
    counts: Sequence[int],
) -> tuple[list[Layer], list[float], int | None]:
    """The layers at what they cost in scarce budgets, and the scarcest budget."""
    leader = None
    weights = [0.0] * len(x)
    if found.live:
        spent = limits.spent(counts)
        leader = max(
            found.live, key=lambda b: (x[b], spent[b] / max(limits.amounts[b], 1e-300))
        )
        weights = list(x) if x[leader] > 0 else weights
        weights[leader] = weights[leader] or 1.0
    elif x:
        weights[0] = 1.0
    prices = shares_of(limits, weights)
    pairs = zip(layers, prices, strict=True)
    return [replace(layer, price=p) for layer, p in pairs], prices, leader


def _alone(
    layers: Sequence[Layer],
    limits: Limits,
    found: Scope,
    leader: int,
    survey: Survey,
    labels: Sequence[str],
) -> HardMasks | None:
    """The masks of one budget alone, if they fit all of them."""
    row = limits.costs[leader]
    bounded = []
    for i, layer in enumerate(layers):
        low = found.held.get(i, layer.upper if row[i] == 0 else layer.lower)
        high = low if i in found.held or row[i] == 0 else layer.upper
        bounded.append(replace(layer, lower=low, upper=high))
    paid = [i for i in range(len(layers)) if row[i] > 0]
    free = [i for i in range(len(layers)) if row[i] == 0]
    masks = solve_hard(
        [bounded[i] for i in paid],
        limits.amounts[leader],
        names=[labels[i] for i in paid],
        survey=survey.of(paid),
    )
    counts = [layer.upper for layer in bounded]
    for i, count in zip(paid, masks.counts, strict=True):
        counts[i] = count
    if not limits.fit(counts):
        return None
    rules = dict(zip(paid, masks.rules, strict=True))
    others = rules_of(
        [bounded[i] for i in free],
        [counts[i] for i in free],
        survey.of(free),
        [labels[i] for i in free],
    )
    rules |= dict(zip(free, others, strict=True))
    every = tuple(rules[i] for i in range(len(layers)))
    return HardMasks(tuple(counts), every, masks.cutoff)
