"""Hard masks: the greedy purchase of entries over several layers, without a sort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.kernels import Survey
from sparsefx.kernels.mask_rule import readable
from sparsefx.kernels.shards import shards
from sparsefx.solver.greedy_purchase import COARSE, Offer, Purse, available, buy
from sparsefx.solver.hard_masks_shared import buy_shared
from sparsefx.solver.layer import Layer, check_layers
from sparsefx.solver.magnitude_histogram import (
    Levels,
    Ranking,
    Rule,
    check_finite,
    rank,
)
from sparsefx.solver.magnitude_levels import Ladder

_Bought = tuple[list[int], float, list[Rule]]


@dataclass(frozen=True, slots=True)
class HardMasks:
    """Hard masks as rules, one a layer; see `sparsefx.kernels.mask_rule.hard_mask`.

    Attributes:
        counts: entries kept.
        rules: which these are.
        cutoff: unit value ``worth * magnitude / price`` at which the shared budget ran
            out, that of the first entry it could not buy; finite. Soft masks are
            decided around it.
    """

    counts: tuple[int, ...]
    rules: tuple[Rule, ...]
    cutoff: float


def solve_hard(
    layers: Sequence[Layer],
    budget: float,
    *,
    names: Sequence[str] | None = None,
    survey: Survey | None = None,
) -> HardMasks:
    """Buys entries by unit value until one does not fit the budget.

    Each layer first keeps its `lower` largest entries. The others are bought one after
    another by ``worth * magnitude / price``, the highest first, ties by layer and flat
    index, until one does not fit; a layer that has reached `upper` leaves the queue.
    The cost is never above the budget, and below it by less than one price of what was
    still to be had. Counts come from a survey's bands, if the budget runs out inside
    them, else from histograms; only levels at the cutoff are sorted. The result is the
    same.

    Args:
        layers: what may be kept.
        budget: what may be spent, in the unit of the prices; at least the cost of the
            lower bounds.
        names: of the layers, for errors.
        survey: of the layers, with bands around the expected thresholds.

    Raises:
        BudgetError: the budget is below the cost of the lower bounds.
        MaskError: a layer is ill-formed, or has NaN or infinite magnitudes.

    Example:
        >>> big = Layer(torch.tensor([4.0, 1.0, 3.0]), 1.0, 1.0, 0, 3)
        >>> small = Layer(torch.tensor([2.0, 0.5]), 1.0, 1.0, 1, 2)
        >>> solve_hard([big, small], budget=3.0).counts
        (2, 1)
    """
    labels = check_layers(layers, budget, names)
    if survey is not None:
        check_finite(survey, labels)
    bought, shared = None, shards([layer.magnitude for layer in layers])
    if shared is not None:
        assert survey is not None, "what ranks share has been surveyed"
        bought = buy_shared(layers, shared, survey, budget)
    elif survey is not None:
        bought = _from_survey(layers, labels, survey, budget)
    if bought is None:
        bought = _from_histograms(layers, labels, budget)
    counts, cutoff, rules = bought
    return HardMasks(tuple(counts), tuple(rules), cutoff)


def _from_survey(
    layers: Sequence[Layer], labels: Sequence[str], survey: Survey, budget: float
) -> _Bought | None:
    """The purchase from the bands, or None if it takes more than they show."""
    purse, upper = Purse.of(layers, budget), [layer.upper for layer in layers]
    if any(band is None for band in survey.bands):
        return None
    ladder = Ladder.of(survey)
    counts, cutoff = upper, None
    if purse.cost(upper) > purse.limit:
        base = [
            min(max(above, layer.lower), layer.upper)
            for layer, above in zip(layers, survey.above, strict=True)
        ]
        if purse.cost(base) > purse.limit:
            return None
        bought = buy(purse, base, Offer.of_ladder(layers, ladder))
        if bought is None:
            return None
        counts, cutoff = bought
        for layer, above, bottom, low, high in zip(
            layers, ladder.above, ladder.bottom, *survey.edges, strict=True
        ):
            scale = layer.worth / layer.price
            # what is above the band was taken for bought, what is below for not
            if layer.lower < above and not cutoff < high * scale:
                return None
            if bottom < layer.upper and not cutoff > low * scale:
                return None
    flats = [readable(layer.magnitude) for layer in layers]
    rules = ladder.rules(flats, counts, labels)
    return counts, _lowest(layers, rules) if cutoff is None else cutoff, rules


def _from_histograms(
    layers: Sequence[Layer], labels: Sequence[str], budget: float
) -> _Bought:
    """The purchase, found cold."""
    purse, counts = Purse.of(layers, budget), [layer.upper for layer in layers]
    rankings = [
        rank(layer.magnitude, label)
        for layer, label in zip(layers, labels, strict=True)
    ]
    windows: list[Levels | None] = [None] * len(layers)
    cutoff = None
    if purse.cost(counts) > purse.limit:
        base, windows = _narrow(layers, rankings, purse.prices, purse.limit)
        bought = buy(purse, base, Offer.of_windows(layers, windows))
        assert bought is not None, "the bins hold the whole budget"
        counts, cutoff = bought
    rules = [
        ranking.threshold(count, window)
        for ranking, count, window in zip(rankings, counts, windows, strict=True)
    ]
    return counts, _lowest(layers, rules) if cutoff is None else cutoff, rules


def _narrow(
    layers: Sequence[Layer],
    rankings: Sequence[Ranking],
    prices: Sequence[float],
    limit: float,
) -> tuple[list[int], list[Levels | None]]:
    """What surely fits, from the bins alone, and the levels where the budget ends."""
    lows, highs, counts, owners, places = [], [], [], [], []
    for i, (layer, ranking) in enumerate(zip(layers, rankings, strict=True)):
        reach, scale = ranking.reach, layer.worth / layer.price
        here = available(layer.lower, layer.upper, reach[:-1], reach[1:])
        place = here.nonzero().squeeze(1)
        lows.append(ranking.edges[place] * scale)
        highs.append(ranking.edges[place + 1] * scale)
        counts.append(here[place])
        owners.append(torch.full_like(place, i))
        places.append(place)
    low, high = torch.cat(lows), torch.cat(highs)
    count, owner = torch.cat(counts), torch.cat(owners)
    cost = count * torch.tensor(prices, dtype=torch.float64)[owner]
    lower = [layer.lower for layer in layers]
    left = limit - math.fsum(p * n for p, n in zip(prices, lower, strict=True))
    slack = COARSE * limit
    bottom = _runs_out(low, cost, left + slack)
    top = _runs_out(high, cost, left - slack)
    sure = low > top
    base = torch.tensor(lower).index_add_(0, owner[sure], count[sure])
    disputed = (~sure & (high >= bottom)).split_with_sizes(
        [len(place) for place in places]
    )
    windows: list[Levels | None] = []
    for ranking, place, mine in zip(rankings, places, disputed, strict=True):
        bins = place[mine].tolist()
        windows.append(ranking.levels(min(bins), max(bins)) if bins else None)
    return [int(n) for n in base], windows


def _runs_out(edge: Tensor, cost: Tensor, money: float) -> float:
    """The edge at which the money is spent, the highest edges first."""
    order = edge.argsort(descending=True)
    place = int(torch.searchsorted(cost[order].cumsum(0), money, right=True))
    return float(edge[order[min(place, len(order) - 1)]])


def _lowest(layers: Sequence[Layer], rules: Sequence[Rule]) -> float:
    """A unit value that no layer's threshold is below, when all are at `upper`."""
    return min(
        max(rule.threshold, 0.0) * layer.worth / layer.price
        for layer, rule in zip(layers, rules, strict=True)
    )
