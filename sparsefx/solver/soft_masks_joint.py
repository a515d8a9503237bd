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
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsefx.kernels import Survey
from sparsefx.solver.hard_masks_joint import JointHard, meet, share_prices
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.layer import Layer
from sparsefx.solver.soft_masks import SoftMasks
from sparsefx.solver.soft_problem import Problem


@dataclass(frozen=True, slots=True)
class JointSoft:
    """Soft masks under several budgets.

    Attributes:
        masks: the masks. Group 0 are the layers that the budgets hold together; its
            cost is in the first budget, its ``mu`` that of layers at the mean price.
        x: multiplier of each budget, in shares of it.
        spent: cost in each budget.
        binding: ``c_bl / (k_b p_l)`` of the budgets that are spent to the last and the
            layers of group 0; 0 elsewhere. One row a budget.
    """

    masks: SoftMasks
    x: tuple[float, ...]
    spent: tuple[float, ...]
    binding: tuple[tuple[float, ...], ...]


def solve_soft_joint(
    layers: Sequence[Layer],
    limits: Limits,
    hard: JointHard,
    beta: float,
    *,
    survey: Survey,
    cutoff: float = 0.0,
    start: Sequence[float] | None = None,
    rtol: float = 1e-6,
    extra: float = 0.0,
) -> JointSoft:
    """Solves the entropic problem of this module's docstring.

    Args:
        layers: what may be kept, at the prices of ``hard``.
        limits: the budgets, over the same layers.
        hard: the hard masks.
        beta: inverse temperature, > 0.
        survey: of the layers.
        cutoff: unit value near which the masks are 1/2; only saves rounding.
        start: first guess of `JointSoft.x`.
        rtol: no budget is exceeded by more than this share, and those that are spent
            are met to it.
        extra: entries, less than one, that layers of equal bounds softly keep beyond
            them.
    """
    for strict in (False, True):
        found = _solve(
            layers, limits, hard, beta, survey, cutoff, start, rtol, extra, strict
        )
        if limits.fit(found.masks.kept, rtol):
            break
    return found


def _solve(
    layers: Sequence[Layer],
    limits: Limits,
    hard: JointHard,
    beta: float,
    survey: Survey,
    cutoff: float,
    start: Sequence[float] | None,
    rtol: float,
    extra: float,
    strict: bool,
) -> JointSoft:
    """With what the scarce budgets do not price kept; if ``strict``, priced as well."""
    problem = Problem(layers, beta, cutoff, 0.25 * rtol, survey, hard.masks)
    held: dict[int, float] = {i: float(n) for i, n in hard.scope.held.items()}
    if not strict and any(hard.x):
        for i in hard.scope.free:
            if not any(limits.costs[b][i] for b, value in enumerate(hard.x) if value):
                held[i] = float(layers[i].upper)
    free = [i for i in range(len(layers)) if i not in held]
    x = [0.0] * len(limits.amounts)
    binding = [[0.0] * len(layers) for _ in limits.amounts]
    states = {}
    if free:
        shown = replace(
            hard.scope,
            held={i: round(n) for i, n in held.items()},
            free=tuple(free),
        )
        live = list(shown.live)
        prices = share_prices(layers, limits, shown, hard.leader)
        first = [(start or hard.x)[b] for b in live]
        first = [v if math.isfinite(v) else 0.0 for v in first]
        found, nus = meet(problem, prices, free, first, 0.25 * rtol)
        open_ = []
        for i, nu in zip(free, nus, strict=True):
            state = problem.each([i], [nu])[0]
            if layers[i].lower <= state.kept <= layers[i].upper:
                states[i] = state
                open_.append(i)
            else:
                low = state.kept < layers[i].lower
                held[i] = float(layers[i].lower if low else layers[i].upper)
        for b, value in zip(live, found, strict=True):
            x[b] = value
            if value > 0 or b == hard.leader:
                for i in open_:
                    share = limits.costs[b][i] / limits.amounts[b]
                    binding[b][i] = share / layers[i].price
    for i, layer in enumerate(layers):
        if layer.lower == layer.upper < layer.magnitude.numel():
            held[i] = layer.lower + extra
    states |= problem.hold(held)
    rows = [states[i] for i in range(len(layers))]
    alone = {i: number for number, i in enumerate(sorted(held), start=1)}
    kept = [row.kept for row in rows]
    spent = limits.spent(kept)
    masks = SoftMasks(
        slopes=tuple(row.slope for row in rows),
        centers=tuple(row.center for row in rows),
        offsets=tuple(row.offset for row in rows),
        groups=tuple(alone.get(i, 0) for i in range(len(layers))),
        spreads=tuple(
            layer.price * row.spread for layer, row in zip(layers, rows, strict=True)
        ),
        kept=tuple(kept),
        bought=tuple(row.bought for row in rows),
        cost=spent[0],
        mu=-beta * math.fsum(x) if free else -math.inf,
        sweeps=problem.sweeps,
    )
    return JointSoft(masks, tuple(x), spent, tuple(map(tuple, binding)))
