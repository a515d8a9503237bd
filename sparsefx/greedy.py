"""Hard masks: the greedy purchase of entries over several layers, without a sort."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.layer import Layer, check_layers, total_cost
from sparsefx.projection import BUDGET_SLACK
from sparsefx.ranking import Levels, Ranking, rank

# The bins that surely fit, and surely do not, are told with sums that may round.
_COARSE = 1e-9


@dataclass(frozen=True, slots=True)
class HardMasks:
    """Hard masks as rules, one a layer; see `hard_mask`.

    Attributes:
        counts: entries kept.
        thresholds: an entry is kept if above it, or equal to it and not after `lasts`;
            exact values of the layer's dtype. -1 where all are kept.
        lasts: last flat index kept among the entries equal to the threshold.
        cost: ``sum price * count``.
        cutoff: unit value ``worth * magnitude / price`` at which the shared budget ran
            out, that of the first entry it could not buy; finite. Soft masks are
            decided around it.
    """

    counts: tuple[int, ...]
    thresholds: tuple[float, ...]
    lasts: tuple[int, ...]
    cost: float
    cutoff: float


def solve_hard(
    layers: Sequence[Layer], budget: float, *, names: Sequence[str] | None = None
) -> HardMasks:
    """Buys entries by unit value until one does not fit the budget.

    Each layer first keeps its `lower` largest entries. The others are bought one after
    another by ``worth * magnitude / price``, the highest first, ties by layer and flat
    index, until one does not fit; a layer that has reached `upper` leaves the queue.
    The cost is never above the budget, and below it by less than one price of what was
    still to be had. Counts come from histograms; only levels at the cutoff are sorted.

    Args:
        layers: what may be kept.
        budget: what may be spent, in the unit of the prices; at least the cost of the
            lower bounds.
        names: of the layers, for errors.

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
    rankings = [
        rank(layer.magnitude, label)
        for layer, label in zip(layers, labels, strict=True)
    ]
    counts, cutoff, windows = _buy(layers, rankings, budget)
    rules = [
        ranking.threshold(count, window)
        for ranking, count, window in zip(rankings, counts, windows, strict=True)
    ]
    return HardMasks(
        counts=tuple(counts),
        thresholds=tuple(threshold for threshold, _ in rules),
        lasts=tuple(last for _, last in rules),
        cost=total_cost(layers, counts),
        cutoff=cutoff,
    )


def _buy(
    layers: Sequence[Layer], rankings: Sequence[Ranking], budget: float
) -> tuple[list[int], float, list[Levels | None]]:
    """Counts, the cutoff, and the levels that were looked at, one a layer."""
    limit, prices = budget * (1.0 + BUDGET_SLACK), [x.price for x in layers]
    if len(set(prices)) == 1:  # then whole entries are counted: nothing rounds
        limit, prices = math.floor(limit / prices[0]), [1.0] * len(layers)
    upper = [layer.upper for layer in layers]
    if math.fsum(p * n for p, n in zip(prices, upper, strict=True)) <= limit:
        return upper, _lowest(layers, rankings), [None] * len(layers)
    base, windows = _narrow(layers, rankings, prices, limit)

    # One row a distinct magnitude of a layer, the best first; stable: ties by layer.
    units, counts, owners = [], [], []
    for i, (layer, window) in enumerate(zip(layers, windows, strict=True)):
        if window is not None:
            units.append(window.values * (layer.worth / layer.price))
            counts.append(_available(layer, window.reach, window.above))
            owners.append(torch.full_like(counts[-1], i))
    unit, order = torch.cat(units).sort(descending=True, stable=True)
    count, owner = torch.cat(counts)[order], torch.cat(owners)[order]

    def bought(rows: int) -> list[int]:
        total = torch.tensor(base).index_add_(0, owner[:rows], count[:rows])
        return [int(n) for n in total]

    def spent(kept: Sequence[int]) -> float:
        return math.fsum(p * n for p, n in zip(prices, kept, strict=True))

    # The first `whole` rows fit whole; of the next one, a part.
    whole = bisect.bisect_right(
        range(len(unit) + 1), limit, key=lambda rows: spent(bought(rows))
    )
    whole -= 1
    kept, tied = bought(whole), int(owner[whole])
    part = max(0, int((limit - spent(kept)) / prices[tied]))
    kept[tied] += part
    while part and spent(kept) > limit:  # the division may have rounded up
        part, kept[tied] = part - 1, kept[tied] - 1
    return kept, float(unit[whole]), windows


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
        available = _available(layer, reach[:-1], reach[1:])
        place = available.nonzero().squeeze(1)
        lows.append(ranking.edges[place] * scale)
        highs.append(ranking.edges[place + 1] * scale)
        counts.append(available[place])
        owners.append(torch.full_like(place, i))
        places.append(place)
    low, high = torch.cat(lows), torch.cat(highs)
    count, owner = torch.cat(counts), torch.cat(owners)
    cost = count * torch.tensor(prices, dtype=torch.float64)[owner]
    lower = [layer.lower for layer in layers]
    left = limit - math.fsum(p * n for p, n in zip(prices, lower, strict=True))
    slack = _COARSE * limit
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


def _available(layer: Layer, reach: Tensor, above: Tensor | int) -> Tensor:
    """Entries of each bin or level that are neither in `lower` nor past `upper`.

    `above` is the reach of the next higher one; an int stands for the first's.
    """
    if isinstance(above, int):
        above = torch.cat([torch.tensor([above]), reach[:-1]])
    return reach.clamp(layer.lower, layer.upper) - above.clamp(layer.lower, layer.upper)


def _lowest(layers: Sequence[Layer], rankings: Sequence[Ranking]) -> float:
    """Unit value of the lowest bin that is kept when every layer is at `upper`."""
    units = []
    for layer, ranking in zip(layers, rankings, strict=True):
        if layer.upper:
            place = int((ranking.reach >= layer.upper).sum()) - 1
            units.append(float(ranking.edges[place]) * layer.worth / layer.price)
    return min(units, default=0.0)
