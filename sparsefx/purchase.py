"""The greedy purchase itself: rows of equal entries, the best unit value first."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.layer import Layer
from sparsefx.projection import BUDGET_SLACK
from sparsefx.ranking import Levels

# What surely fits, and surely does not, is told with sums that may round.
COARSE = 1e-9
_MANY_ROWS = 2**12  # more are sieved before they are sorted


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


def buy(
    layers: Sequence[Layer],
    purse: Purse,
    base: Sequence[int],
    windows: Sequence[Levels | None],
) -> tuple[list[int], float] | None:
    """Counts and cutoff, or None if the windows end before the money does.

    `base` counts what is bought before the windows, which `purse` can pay.
    """
    # One row a distinct magnitude of a layer, the best first; stable: ties by layer.
    units, counts, owners = [], [], []
    for i, (layer, window) in enumerate(zip(layers, windows, strict=True)):
        if window is not None and len(window.values):
            units.append(window.values * (layer.worth / layer.price))
            counts.append(available(layer, window.reach, window.above))
            owners.append(torch.full_like(counts[-1], i))
    if not units:
        return None
    unit, count, owner = torch.cat(units), torch.cat(counts), torch.cat(owners)
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
    place = ((unit - low) * (_MANY_ROWS / width)).long().clamp_(0, _MANY_ROWS)
    slack = COARSE * left
    above = torch.bincount(place, cost, _MANY_ROWS + 1).flip(0).cumsum(0).flip(0)
    sure = (above <= left - slack)[place]
    above = torch.cat([above[1:], above.new_zeros(1)])
    return sure, ~sure & (above <= left + slack)[place]


def available(layer: Layer, reach: Tensor, above: Tensor | int) -> Tensor:
    """Entries of each bin or level that are neither in `lower` nor past `upper`.

    `above` is the reach of the next higher one; an int stands for the first's.
    """
    if isinstance(above, int):
        above = torch.cat([torch.tensor([above]), reach[:-1]])
    return reach.clamp(layer.lower, layer.upper) - above.clamp(layer.lower, layer.upper)
