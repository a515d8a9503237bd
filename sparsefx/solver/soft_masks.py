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

from sparsefx.kernels import Survey
from sparsefx.solver.hard_masks import HardMasks
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.solver.request import Warm
from sparsefx.solver.soft_problem import Problem, SoftMask, SoftMasks


def solve_soft(
    layers: Sequence[Layer],
    budget: float,
    beta: float,
    hard: HardMasks,
    *,
    survey: Survey,
    warm: Warm | None = None,
    extra: float = 0.0,
) -> SoftMasks:
    """Solves the entropic problem of this module's docstring.

    The cost of the clamped layers together grows with mu no faster than without clamps,
    so the one safeguarded Newton of `sparsefx.solver.projection` finds the shared mu;
    layers it pushes past a bound are then solved alone for that bound. Masks are
    evaluated exactly as `sparsefx.kernels.mask_rule.soft_mask` does, in the layers'
    dtypes.

    Args:
        layers: what may be kept.
        budget: the cost to meet, in the unit of the prices; at least the cost of the
            lower bounds. Above the cost of the upper bounds all of them are reached.
        beta: inverse temperature, > 0.
        hard: the hard masks; near their cutoff the soft ones are 1/2.
        survey: of the layers.
        warm: what is known of the last masks of these layers.
        extra: entries, less than one, that a layer of equal bounds softly keeps beyond
            them: what whole counts leave of a budget.

    Example:
        >>> import torch
        >>> from sparsefx.solver.hard_masks import solve_hard
        >>> from sparsefx.solver.survey_bands import look
        >>> layer = Layer(torch.tensor([4.0, 1.0, 3.0]), 1.0, 1.0, 0, 3)
        >>> masks = solve_soft([layer], 2.0, 2.0, solve_hard([layer], 2.0),
        ...                    survey=look([layer.magnitude], None))
        >>> round(masks.kept[0], 5)
        2.0
    """
    warm, cutoff = warm or Warm(), hard.cutoff
    problem = Problem(layers, beta, cutoff, survey, hard)
    least = total_cost(layers, [x.lower for x in layers])
    most = total_cost(layers, [x.upper for x in layers])
    inside: dict[int, SoftMask] = {}
    if budget >= most * (1.0 - BUDGET_SLACK):
        shared, held = math.inf, {i: float(x.upper) for i, x in enumerate(layers)}
    elif budget <= least * (1.0 + BUDGET_SLACK):
        shared, held = -math.inf, {i: float(x.lower) for i, x in enumerate(layers)}
    else:
        fixed = {i: float(x.lower) for i, x in enumerate(layers) if x.lower == x.upper}
        free = [i for i in range(len(layers)) if i not in fixed]
        spent = math.fsum(layers[i].price * count for i, count in fixed.items())
        start = warm.start(beta)
        guess = 0.0 if start is None else start + beta * cutoff
        shared = problem.share(free, budget - spent, guess)
        inside, beyond = problem.split(free, [shared] * len(free))
        held = {**fixed, **beyond}
    return problem.masks(
        inside,
        held,
        shared - beta * cutoff,
        extra,
        guess=shared if math.isfinite(shared) else 0.0,
        middles=dict(enumerate(warm.middles)),
    )
