"""One budget over several layers with bounds: hard and soft masks as a few scalars.

Per layer l with magnitudes a, price p (cost of a kept entry), worth w, beta and bounds:

    maximise   sum_l sum_i w_l a_li m_li + (1/beta) sum_l p_l sum_i H(m_li)
    subject to sum_l p_l sum_i m_li = k,   lower_l <= sum_i m_li <= upper_l

The soft solution is ``m = sigmoid(beta w a / p + clamp(mu, lo_l, hi_l))``: one shared
multiplier mu, and own ones for layers held at a bound. As beta grows it becomes the
hard solution, which buys entries by unit value ``w a / p``. Neither needs the layers
concatenated, all weights sorted, or a mask stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsefx.errors import MaskError
from sparsefx.kernels import Survey
from sparsefx.kernels.mask_rule import hard_mask, soft_mask
from sparsefx.solver.hard_masks import HardMasks, solve_hard
from sparsefx.solver.layer import Layer, check_layers, total_cost
from sparsefx.solver.magnitude_histogram import check_finite
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.solver.soft_problem import Problem

__all__ = [
    "HardMasks",
    "Layer",
    "SoftMasks",
    "hard_mask",
    "soft_mask",
    "solve_hard",
    "solve_soft",
]


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """Soft masks as scalars, one set a layer; see `soft_mask`.

    Attributes:
        slopes: ``beta * worth / price``.
        centers: magnitude near which the mask is 1/2, so that offsets stay small.
        offsets: own or shared multiplier plus ``slope * center``; inf where all are
            kept for certain, -inf where none.
        groups: layers with one number share a multiplier; 0 is the shared budget, a
            layer held at a bound is alone.
        spreads: ``sum price * m * (1 - m)``.
        kept: ``sum m``, the soft count.
        bought: ``sum m`` over the entries that the hard masks keep.
        cost: ``sum price * kept``.
        mu: the shared multiplier, ``m = sigmoid(beta * worth * magnitude / price +
            mu)``; inf or -inf if the budget leaves no layer free.
        sweeps: times the masks were evaluated (the layer evaluated most often).
    """

    slopes: tuple[float, ...]
    centers: tuple[float, ...]
    offsets: tuple[float, ...]
    groups: tuple[int, ...]
    spreads: tuple[float, ...]
    kept: tuple[float, ...]
    bought: tuple[float, ...]
    cost: float
    mu: float
    sweeps: int


def solve_soft(
    layers: Sequence[Layer],
    budget: float,
    beta: float,
    cutoff: float,
    start: float | None = None,
    rtol: float = 1e-6,
    *,
    names: Sequence[str] | None = None,
    survey: Survey | None = None,
    hard: HardMasks | None = None,
    extra: float = 0.0,
    middles: Sequence[float] | None = None,
) -> SoftMasks:
    """Solves the entropic problem of this module's docstring.

    The cost of the clamped layers together grows with mu no faster than without clamps,
    so the one safeguarded Newton of `sparsefx.solver.projection` finds the shared mu;
    layers it pushes past a bound are then solved alone for that bound. Masks are
    evaluated exactly as `soft_mask` does, in the layers' dtypes.

    Args:
        layers: what may be kept.
        budget: the cost to meet, in the unit of the prices; at least the cost of the
            lower bounds. Above the cost of the upper bounds all of them are reached.
        beta: inverse temperature, > 0.
        cutoff: unit value near which the masks are 1/2 (`HardMasks.cutoff`); the first
            guess.
        start: a better first guess of `SoftMasks.mu`, such as the last one times the
            ratio of the betas.
        rtol: the cost meets the budget to this, relative.
        extra: entries, less than one, that a layer of equal bounds softly keeps beyond
            them: what whole counts leave of a budget.
        names: of the layers, for errors.
        survey: of the layers; saves a sweep.
        hard: the hard masks, for `SoftMasks.bought`; None keeps all.
        middles: magnitudes at which the masks of layers held at a bound may be 1/2;
            saves sweeps.

    Raises:
        BudgetError: the budget is below the cost of the lower bounds.
        MaskError: beta is not positive, a layer is ill-formed, or has NaN or infinite
            magnitudes.

    Example:
        >>> import torch
        >>> layer = Layer(torch.tensor([4.0, 1.0, 3.0]), 1.0, 1.0, 0, 3)
        >>> masks = solve_soft([layer], budget=2.0, beta=2.0, cutoff=3.0)
        >>> round(masks.kept[0], 5)
        2.0
    """
    labels = check_layers(layers, budget, names)
    if not 0.0 < beta < math.inf:
        raise MaskError(f"beta is {beta}; it must be a finite number above 0")
    problem = Problem(layers, beta, cutoff, 0.25 * rtol, survey, hard)
    check_finite(problem.survey, labels)
    least = total_cost(layers, [x.lower for x in layers])
    most = total_cost(layers, [x.upper for x in layers])
    held: dict[int, float] = {
        i: x.lower for i, x in enumerate(layers) if x.lower == x.upper
    }
    free = [i for i in range(len(layers)) if i not in held]
    if budget >= most * (1.0 - BUDGET_SLACK):
        shared, held = math.inf, {i: x.upper for i, x in enumerate(layers)}
    elif budget <= least * (1.0 + BUDGET_SLACK):
        shared, held = -math.inf, {i: x.lower for i, x in enumerate(layers)}
    else:
        fixed = math.fsum(layers[i].price * count for i, count in held.items())
        guess = 0.0 if start is None else start + beta * cutoff
        shared = problem.share(free, budget - fixed, guess)
        for i, state in zip(free, problem.at(free, shared), strict=True):
            count = state.kept
            if not layers[i].lower <= count <= layers[i].upper:
                held[i] = (
                    layers[i].lower if count < layers[i].lower else layers[i].upper
                )
    for i, layer in enumerate(layers):
        if layer.lower == layer.upper < layer.magnitude.numel():
            held[i] = layer.lower + extra
    guess = shared if math.isfinite(shared) else 0.0
    open_ = [i for i in range(len(layers)) if i not in held]
    found = dict(zip(open_, problem.at(open_, shared), strict=True))
    found |= problem.hold(held, guess, dict(enumerate(middles or ())))
    states = [found[i] for i in range(len(layers))]
    alone = {i: number for number, i in enumerate(sorted(held), start=1)}
    return SoftMasks(
        slopes=tuple(state.slope for state in states),
        centers=tuple(state.center for state in states),
        offsets=tuple(state.offset for state in states),
        groups=tuple(alone.get(i, 0) for i in range(len(layers))),
        spreads=tuple(
            layer.price * state.spread
            for layer, state in zip(layers, states, strict=True)
        ),
        kept=tuple(state.kept for state in states),
        bought=tuple(state.bought for state in states),
        cost=total_cost(layers, [state.kept for state in states]),
        mu=shared - beta * cutoff,
        sweeps=problem.sweeps,
    )
