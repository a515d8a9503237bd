"""The greedy purchase itself: rows of equal entries, the best unit value first."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.solver.layer import Layer
from sparsefx.solver.magnitude_histogram import Levels
from sparsefx.solver.magnitude_levels import Ladder
from sparsefx.solver.projection import BUDGET_SLACK

# What surely fits, and surely does not, is told with sums that may round.
COARSE = 1e-9
_MANY_ROWS = 2**9  # more are sieved before they are sorted
_BINS = 2**12  # of the sieve


@dataclass(frozen=True, slots=True)
class Purse:
    """What may be spent: a limit and the prices it is counted in."""

    limit: float
    prices: Sequence[float]

    @classmethod
    def of(cls, layers: Sequence[Layer], budget: float) -> Purse:
        """The budget of `solve_hard`, in prices that do not round where possible."""
        limit, prices = budget * (1.0 + BUDGET_SLACK), [x.price for x in layers]
        if len(set(prices)) == 1:  # then whole entries are counted: nothing rounds
            limit, prices = math.floor(limit / prices[0]), [1.0] * len(layers)
        return cls(limit, prices)

    def cost(self, counts: Sequence[int]) -> float:
        """What these counts cost, in its prices; rounded once."""
        return math.fsum(p * n for p, n in zip(self.prices, counts, strict=True))


@dataclass(frozen=True, slots=True)
class Offer:
    """What is for sale: one row a distinct magnitude of a layer.

    Attributes:
        unit: value of an entry over its price, float64; ties go by layer.
        count: how many there are.
        owner: their layer, not decreasing.
    """

    unit: Tensor
    count: Tensor
    owner: Tensor

    @classmethod
    def of_windows(
        cls, layers: Sequence[Layer], windows: Sequence[Levels | None]
    ) -> Offer:
        """The entries of a window of each layer, or of none."""
        units, counts, owners = [], [], []
        for i, (layer, window) in enumerate(zip(layers, windows, strict=True)):
            if window is not None and len(window.values):
                above = torch.cat([torch.tensor([window.above]), window.reach[:-1]])
                units.append(window.values * (layer.worth / layer.price))
                counts.append(available(layer.lower, layer.upper, window.reach, above))
                owners.append(torch.full_like(counts[-1], i))
        return cls(torch.cat(units), torch.cat(counts), torch.cat(owners))

    @classmethod
    def of_ladder(cls, layers: Sequence[Layer], ladder: Ladder) -> Offer:
        """The entries in the bands of all layers."""
        reach, owner = ladder.reach, ladder.owner
        lower, upper = torch.tensor([[x.lower, x.upper] for x in layers]).T
        scale = torch.tensor([x.worth / x.price for x in layers], dtype=torch.float64)
        lower, upper = lower[owner], upper[owner]
        count = available(lower, upper, reach, reach - ladder.counts)
        return cls(ladder.values * scale[owner], count, owner)


def buy(
    purse: Purse, base: Sequence[int], offer: Offer
) -> tuple[list[int], float] | None:
    """Counts and cutoff, or None if the offer ends before the money does.

    `base` counts what is bought before the offer, which `purse` can pay.
    """
    unit, count, owner = offer.unit, offer.count, offer.owner
    if not len(unit):
        return None
    price, start = torch.tensor(purse.prices, dtype=torch.float64), torch.tensor(base)
    if len(unit) > _MANY_ROWS:
        sure, open_ = _sieve(unit, count * price[owner], purse.limit - purse.cost(base))
        start = start.index_add(0, owner[sure], count[sure])
        unit, count, owner = unit[open_], count[open_], owner[open_]
    unit, order = unit.sort(descending=True, stable=True)
    count, owner = count[order], owner[order]

    def bought(rows: int) -> list[int]:
        kept: list[int] = start.index_add(0, owner[:rows], count[:rows]).tolist()
        return kept

    # The first `whole` rows fit whole; of the next one, a part. Sums that may round
    # tell where about; exact ones decide.
    left, slack = purse.limit - purse.cost(bought(0)), COARSE * purse.limit
    spent = (count * price[owner]).cumsum(0)
    ends = torch.tensor([left - slack, left + slack], dtype=torch.float64)
    first, stop = torch.searchsorted(spent, ends, right=True).tolist()
    whole = bisect.bisect_right(
        range(first, min(stop, len(unit)) + 1),
        purse.limit,
        key=lambda rows: purse.cost(bought(rows)),
    )
    whole += first - 1
    if not 0 <= whole < len(unit):
        return None
    kept, tied = bought(whole), int(owner[whole])
    part = max(0, int((purse.limit - purse.cost(kept)) / purse.prices[tied]))
    kept[tied] += part
    while part and purse.cost(kept) > purse.limit:  # the division may have rounded up
        part, kept[tied] = part - 1, kept[tied] - 1
    return kept, float(unit[whole])


def _sieve(unit: Tensor, cost: Tensor, left: float) -> tuple[Tensor, Tensor]:
    """Rows that are bought for sure, and those near where the money ends."""
    low, high = unit.aminmax()
    width = (high - low).clamp_min(torch.finfo(unit.dtype).tiny)
    place = ((unit - low) * (_BINS / width)).long().clamp_(0, _BINS)
    slack = COARSE * left
    above = torch.bincount(place, cost, _BINS + 1).flip(0).cumsum(0).flip(0)
    sure = (above <= left - slack)[place]
    above = torch.cat([above[1:], above.new_zeros(1)])
    return sure, ~sure & (above <= left + slack)[place]


def available(
    lower: Tensor | int, upper: Tensor | int, reach: Tensor, above: Tensor
) -> Tensor:
    """Entries of each bin or level that are neither in `lower` nor past `upper`.

    Args:
        lower: counts that layers keep in any case.
        upper: most that they keep.
        reach: entries of the layer in this bin or level, or higher.
        above: entries of the layer that are higher.
    """
    return _between(reach, lower, upper) - _between(above, lower, upper)


def _between(count: Tensor, lower: Tensor | int, upper: Tensor | int) -> Tensor:
    return count.clamp(torch.as_tensor(lower), torch.as_tensor(upper))
