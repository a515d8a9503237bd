r"""Soft masks under several budgets.

    maximise   sum_l w_l sum_i a_li m_li + (1/beta) sum_l p_l sum_i H(m_li)
    subject to sum_l c_bl sum_i m_li <= k_b  for every b,
               lower_l <= sum_i m_li <= upper_l

The entropy is counted in the prices of the hard masks, ``p_l = sum_b x_b c_bl``, so a
budget that does not run out changes nothing, and one budget alone gives the masks of
`sparsefx.solver.soft_masks`. The scarcest budget is spent exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparsefx.kernels import Survey
from sparsefx.solver.hard_masks_joint import JointHard, meet, share_prices
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.layer import Layer
from sparsefx.solver.soft_problem import RTOL, Problem, SoftMask, SoftMasks


@dataclass(frozen=True, slots=True)
class JointSoft:
    """Soft masks under several budgets.

    Attributes:
        masks: the masks.
        x: multiplier of each budget, in shares of it.
        binding: ``c_bl / (k_b p_l)`` of the budgets that are spent to the last and the
            layers that they hold together; 0 elsewhere. One row a budget.
    """

    masks: SoftMasks
    x: tuple[float, ...]
    binding: tuple[tuple[float, ...], ...]


def solve_soft_joint(
    layers: Sequence[Layer],
    limits: Limits,
    hard: JointHard,
    beta: float,
    *,
    survey: Survey,
    start: Sequence[float] | None = None,
    extra: float = 0.0,
) -> JointSoft:
    """Solves the entropic problem of this module's docstring.

    No budget is exceeded by more than `RTOL`, and those that are spent are met to it.

    Args:
        layers: what may be kept, at the prices of ``hard``.
        limits: the budgets, over the same layers.
        hard: the hard masks; near their cutoff, in these worths, the soft ones are 1/2.
        beta: inverse temperature, > 0.
        survey: of the layers.
        start: first guess of `JointSoft.x`.
        extra: entries, less than one, that layers of equal bounds softly keep beyond
            them.
    """
    held = {i: float(count) for i, count in hard.scope.held.items()}
    left = dict(held)  # what scarce budgets do not price is kept
    if any(hard.x):
        for i in hard.scope.free:
            if not any(limits.costs[b][i] for b, value in enumerate(hard.x) if value):
                left[i] = float(layers[i].upper)
    for counts in (left, held):  # unless that costs too much: then it is priced as well
        problem = Problem(layers, beta, hard.masks.cutoff, survey, hard.masks)
        found = _solve(problem, limits, hard, counts, start or hard.x, extra)
        if limits.fit(found.masks.kept, RTOL):
            break
    return found


def _solve(
    problem: Problem,
    limits: Limits,
    hard: JointHard,
    held: Mapping[int, float],
    start: Sequence[float],
    extra: float,
) -> JointSoft:
    """With these counts held; the budgets decide what else is kept."""
    layers = problem.layers
    free = [i for i in range(len(layers)) if i not in held]
    x = [0.0] * len(limits.amounts)
    binding = [[0.0] * len(layers) for _ in limits.amounts]
    inside: dict[int, SoftMask] = {}
    beyond: dict[int, float] = {}
    if free:
        counts = {i: round(count) for i, count in held.items()}
        shown = replace(hard.scope, held=counts, free=tuple(free))
        prices = share_prices(layers, limits, shown, hard.leader)
        first = [start[b] if math.isfinite(start[b]) else 0.0 for b in shown.live]
        found, nus = meet(problem, prices, free, first, problem.rtol)
        inside, beyond = problem.split(free, nus)
        for b, value in zip(shown.live, found, strict=True):
            x[b] = value
            if value > 0 or b == hard.leader:
                for i in inside:
                    share = limits.costs[b][i] / limits.amounts[b]
                    binding[b][i] = share / layers[i].price
    mu = -problem.beta * math.fsum(x) if free else -math.inf
    masks = problem.masks(inside, {**held, **beyond}, mu, extra)
    return JointSoft(masks, tuple(x), tuple(map(tuple, binding)))
