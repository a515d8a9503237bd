"""Whole counts within several budgets, and the rules that keep so many entries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsefx.kernels import Survey
from sparsefx.kernels.mask_rule import readable
from sparsefx.kernels.shards import shards
from sparsefx.solver.hard_masks_shared import shared_rules
from sparsefx.solver.joint_budgets import Limits, Scope
from sparsefx.solver.layer import Layer
from sparsefx.solver.magnitude_histogram import Rule
from sparsefx.solver.magnitude_levels import Ladder
from sparsefx.solver.projection import BUDGET_SLACK

_ALMOST = 1e-3  # a count this near below a whole number is that number


def whole_counts(
    layers: Sequence[Layer], limits: Limits, found: Scope, soft: Mapping[int, float]
) -> list[int]:
    """Whole counts: below the soft ones, then whatever still fits.

    What is left of the budgets goes to the greatest fractions first, an entry each;
    then, in the same order, to whoever can still use it. No budget is exceeded, and
    no entry could be added.

    Args:
        layers: what may be kept.
        limits: the budgets, over the same layers.
        found: what bounds alone decide.
        soft: counts of the free layers, by number.

    Example:
        >>> import torch
        >>> from sparsefx.solver.joint_budgets import scope
        >>> pair = [Layer(torch.ones(4), 1.0, 1.0, 0, 4) for _ in range(2)]
        >>> limits = Limits(((1.0, 1.0), (1.0, 2.0)), (3.0, 4.5), ("a", "b"))
        >>> whole_counts(pair, limits, scope(pair, limits), {0: 1.4, 1: 1.55})
        [2, 1]
    """
    counts = [found.held.get(i, layer.lower) for i, layer in enumerate(layers)]
    for i in found.free:
        whole = math.floor(soft[i] + _ALMOST)
        counts[i] = min(max(whole, layers[i].lower), layers[i].upper)
    order = sorted(found.free, key=lambda i: counts[i] - soft[i])
    for b, row in enumerate(limits.costs):  # sums of masks round: take back
        for i in reversed(order):
            over = limits.spent(counts)[b] - limits.amounts[b] * (1.0 + BUDGET_SLACK)
            if over <= 0:
                break
            if row[i] > 0:
                back = min(math.ceil(over / row[i]), counts[i] - layers[i].lower)
                counts[i] -= back
    spent = limits.spent(counts)
    pairs = zip(limits.amounts, spent, strict=True)
    left = [amount * (1.0 + BUDGET_SLACK) - cost for amount, cost in pairs]
    for most in (1, math.inf):
        for i in order:
            room = min(most, layers[i].upper - counts[i])
            for row, money in zip(limits.costs, left, strict=True):
                if row[i] > 0:
                    room = min(room, max(money, 0.0) // row[i])
            counts[i] += int(room)
            while room and not limits.fit(counts):  # the division may have rounded up
                counts[i], room = counts[i] - 1, room - 1
            if room:
                left = [
                    money - room * row[i]
                    for row, money in zip(limits.costs, left, strict=True)
                ]
    return counts


def rules_of(
    layers: Sequence[Layer],
    counts: Sequence[int],
    survey: Survey,
    labels: Sequence[str],
) -> list[Rule]:
    """The rules that keep so many entries of each layer, the largest, ties by index.

    Args:
        layers: what may be kept.
        counts: entries to keep.
        survey: of the layers; where its bands show the last kept entry, no other
            look at the weights is needed.
        labels: names of the layers, for errors.
    """
    flats = [readable(layer.magnitude) for layer in layers]
    shared = shards(flats)
    if shared is not None:
        return shared_rules(shared, counts, survey.highs)
    return Ladder.of(survey).rules(flats, counts, labels)
