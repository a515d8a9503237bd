"""The greedy purchase of `sparsefx.solver.hard_masks` over entries that ranks share.

Counts, cutoff and rules are those that one process finds: entries are bought by the
bits of their unit value (`sparsefx.solver.radix_cutoff`), ties by layer and by index in
the whole tensor. Where a purchase would leave a layer's bounds, what these settle of
the layer is taken off the market, and it is done again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefx.kernels import Survey
from sparsefx.kernels.shards import Shard
from sparsefx.solver.greedy_purchase import Purse
from sparsefx.solver.layer import Layer
from sparsefx.solver.magnitude_histogram import Rule
from sparsefx.solver.radix_cutoff import cutoffs

_HALF = 0.5  # counts are whole: nothing costs exactly so much


def shared_rules(
    shards: Sequence[Shard], counts: Sequence[int], highs: Sequence[float]
) -> list[Rule]:
    """The rules that keep so many entries of each tensor, the largest, ties by index.

    Args:
        shards: the tensors, finite.
        counts: entries to keep, each in [0, n].
        highs: their greatest magnitudes.
    """
    rules = [
        _all_or_none(shard, count, high)
        for shard, count, high in zip(shards, counts, highs, strict=True)
    ]
    open_ = [i for i, rule in enumerate(rules) if rule is None]
    if open_:
        ranks = shards[open_[0]].ranks
        keys = {i: shards[i].own().view(torch.int64) for i in open_}
        found = cutoffs(
            [[(keys[i], 1.0)] for i in open_], [counts[i] - _HALF for i in open_], ranks
        )
        tied = []
        for i, at in zip(open_, found, strict=True):
            size = shards[i].numel()
            rules[i] = Rule(value_of(at.key), size - 1)
            if at.above + at.tied > counts[i]:
                tied.append((i, counts[i] - at.above, keys[i] == at.key))
        if tied:  # the least indices: from the top, by what is left to the end
            places = [shards[i].numel() - 1 - shards[i].indices(t) for i, _, t in tied]
            lasts = cutoffs(
                [[(place, 1.0)] for place in places],
                [nth - _HALF for _, nth, _ in tied],
                ranks,
            )
            for (i, _, _), at in zip(tied, lasts, strict=True):
                last = shards[i].numel() - 1 - at.key
                rules[i] = Rule(_known(rules[i]).threshold, last)
    return [_known(rule) for rule in rules]


def _known(rule: Rule | None) -> Rule:
    assert rule is not None
    return rule


def _all_or_none(shard: Shard, count: int, high: float) -> Rule | None:
    size = shard.numel()
    if count == size:
        return Rule(-1.0, size - 1)
    if count == 0:
        top = torch.tensor([high, math.inf], dtype=shard.dtype)
        above = float(torch.nextafter(top[0], top[1]))
        return Rule(min(above, torch.finfo(shard.dtype).max), -1)
    return None


def value_of(key: int) -> float:
    """The number whose bits a key is."""
    return float(torch.tensor(key).view(torch.float64))


def _kept(shard: Shard, own: Tensor, rule: Rule) -> Tensor:
    """Which of the entries that a rank counts a rule keeps."""
    upto = torch.arange(len(own), device=own.device) < shard.box.upto(rule.last)
    return (own > rule.threshold) | ((own == rule.threshold) & upto)


class _Purchase(NamedTuple):
    """What a market sells.

    Attributes:
        counts: entries of each layer that are kept.
        cutoff: unit value of the first entry that did not fit.
        last: its layer.
        sold: of each layer, whether all entries at the cutoff are sold, or none; None
            where a part of them is.
    """

    counts: list[int]
    cutoff: float
    last: int
    sold: list[bool | None]


@dataclass(slots=True, eq=False)
class _Market:
    """Entries for sale, and the purchase of the best of them.

    Attributes:
        layers: what may be kept.
        shards: their magnitudes.
        survey: of the layers.
        purse: what may be spent.
        values: magnitudes of the entries of each layer that are for sale here.
        base: what each layer keeps that is not for sale.
        settled: layers of which only what lies between their bounds is for sale.
    """

    layers: Sequence[Layer]
    shards: Sequence[Shard]
    survey: Survey
    purse: Purse
    values: list[Tensor]
    base: list[int]
    settled: set[int] = field(default_factory=set)

    @property
    def scales(self) -> list[float]:
        """Of each layer, what magnitudes are multiplied by to be unit values."""
        return [layer.worth / layer.price for layer in self.layers]

    def settle(self, places: Sequence[int]) -> None:
        """Takes off the market what these layers keep, or drop, in any case."""
        shards = [self.shards[i] for i in places]
        highs = [self.survey.highs[i] for i in places]
        lower, upper = (
            shared_rules(shards, [getattr(self.layers[i], end) for i in places], highs)
            for end in ("lower", "upper")
        )
        for i, shard, low, high in zip(places, shards, lower, upper, strict=True):
            own = shard.own()
            self.values[i] = own[_kept(shard, own, high) & ~_kept(shard, own, low)]
            self.base[i] = self.layers[i].lower
        self.settled.update(places)

    def buy(self) -> _Purchase | None:
        """The purchase within all bounds; None where what is for sale ends before."""
        wrong = [i for i, x in enumerate(self.layers) if x.lower == x.upper]
        while True:
            if wrong:
                self.settle(wrong)
            found = self._prefix()
            if found is None:
                return None
            wrong = [
                i
                for i, (n, x) in enumerate(zip(found.counts, self.layers, strict=True))
                if i not in self.settled
                and not x.lower <= n <= x.upper - (i == found.last)
            ]
            if not wrong:
                return found if self._inside(found.cutoff) else None

    def _prefix(self) -> _Purchase | None:
        """The entries before the first that does not fit, bounds aside."""
        purse, ranks = self.purse, self.shards[0].ranks
        money = purse.limit - purse.cost(self.base)
        if money < 0:
            return None
        rows = zip(self.values, self.scales, strict=True)
        keys = [(value.double() * x).view(torch.int64) for value, x in rows]
        (cut,) = cutoffs([list(zip(keys, purse.prices, strict=True))], [money], ranks)
        if cut.key < 0:
            return None
        here = [(int((k > cut.key).sum()), int((k == cut.key).sum())) for k in keys]
        table = ranks.total(torch.tensor(here, dtype=torch.float64)).long()
        counts = [
            n + row for n, row in zip(self.base, table[:, 0].tolist(), strict=True)
        ]
        last = -1
        found: list[bool | None] = [False] * len(counts)
        for i, tied in enumerate(table[:, 1].tolist()):
            if not tied:
                continue
            left = purse.limit - purse.cost(counts)
            part = min(tied, max(0, int(left / purse.prices[i])))
            counts[i] += part
            while part and purse.cost(counts) > purse.limit:  # the division rounded up
                part, counts[i] = part - 1, counts[i] - 1
            last, found[i] = i, part == tied if part in (0, tied) else None
            if part < tied:
                break
        return _Purchase(counts, value_of(cut.key), last, found)

    def _inside(self, cutoff: float) -> bool:
        """Whether the cutoff lies in the bands of layers with more to offer."""
        seen = self.survey
        rows = zip(self.scales, self.base, *seen.edges, strict=True)
        return all(
            i in self.settled
            or ((cutoff < high * x or not base) and (cutoff > low * x or low <= 0.0))
            for i, (x, base, low, high) in enumerate(rows)
        )

    def rules(self, bought: _Purchase) -> list[Rule]:
        """The rules that keep what is bought: down to the least of each layer.

        By rank where bounds settle a part, or of equal entries a part is kept.
        """
        least = []
        for value, x, whole in zip(self.values, self.scales, bought.sold, strict=True):
            unit = value.double() * x
            kept = value[unit >= bought.cutoff if whole else unit > bought.cutoff]
            least.append(-float(kept.min()) if len(kept) else -math.inf)
        found = [-x for x in self.shards[0].ranks.most(least).tolist()]
        rules = [
            Rule(value, shard.numel() - 1)
            for value, shard in zip(found, self.shards, strict=True)
        ]
        odd = [
            i
            for i, (n, x) in enumerate(zip(bought.counts, self.shards, strict=True))
            if i in self.settled
            or bought.sold[i] is None
            or n in (0, x.numel())
            or math.isinf(found[i])
        ]
        known = shared_rules(
            [self.shards[i] for i in odd],
            [bought.counts[i] for i in odd],
            [self.survey.highs[i] for i in odd],
        )
        for i, rule in zip(odd, known, strict=True):
            rules[i] = rule
        return rules


def buy_shared(
    layers: Sequence[Layer], shards: Sequence[Shard], survey: Survey, budget: float
) -> tuple[list[int], float, list[Rule]]:
    """Counts, cutoff and rules of `sparsefx.solver.hard_masks.solve_hard`.

    Args:
        layers: what may be kept.
        shards: their magnitudes.
        survey: of the layers; where its bands hold the cutoff, only they are counted.
        budget: what may be spent, in the unit of the prices.
    """
    purse, upper = Purse.of(layers, budget), [layer.upper for layer in layers]
    if purse.cost(upper) <= purse.limit:
        rules = shared_rules(shards, upper, survey.highs)
        pairs = zip(layers, rules, strict=True)
        lows = [max(rule.threshold, 0.0) * x.worth / x.price for x, rule in pairs]
        return upper, min(lows), rules
    bands = [band for band in survey.bands if band is not None]
    tries = [(bands, list(survey.above))] if len(bands) == len(layers) else []
    tries.append(([shard.own() for shard in shards], [0] * len(layers)))
    for values, base in tries:
        market = _Market(layers, shards, survey, purse, values, base)
        bought = market.buy()
        if bought is not None:
            return bought.counts, bought.cutoff, market.rules(bought)
    raise AssertionError("all entries together hold the whole budget")
