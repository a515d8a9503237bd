"""Where money runs out among entries that several ranks hold, without moving any.

The bits of non-negative floats, read as integers, are in the order of the floats. All
ranks count theirs by the upper bits, add the counts up, and look on below the one value
of these bits at which the money runs out: a few small tables are all that is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefx.kernels.ranks import Ranks

_BITS = 64  # of a key, the sign's included
_MANY = 8  # from so many queues on, a round is of four bits: it sends less


class Cutoff(NamedTuple):
    """Where a queue's money runs out.

    Attributes:
        key: the greatest key whose entries cannot all be paid for; -1 where all can.
        above: what the entries of greater keys cost.
        tied: what those of this key cost.
    """

    key: int
    above: float
    tied: float


def cutoffs(
    queues: Sequence[Sequence[tuple[Tensor, float]]],
    money: Sequence[float],
    ranks: Ranks,
) -> list[Cutoff]:
    """Buys in each queue by key, the greatest first, until a key is too dear.

    Args:
        queues: each several pairs of keys (int64, at least 0, those of this rank's
            entries) and what such an entry costs.
        money: what each queue may cost, at least 0.
        ranks: who holds the other entries.
    """
    width = 8 if len(queues) < _MANY else 4
    bins, found = 2**width, [Cutoff(0, 0.0, 0.0)] * len(queues)
    left, limits = (
        [list(queue) for queue in queues],
        torch.tensor(money, dtype=torch.float64),
    )
    for shift in range(_BITS - width, -1, -width):
        table = torch.zeros(len(queues), bins, dtype=torch.float64)
        for row, queue in zip(table, left, strict=True):
            for keys, price in queue:
                digits = (keys >> shift) & (bins - 1)
                row += price * torch.bincount(digits, minlength=bins).cpu()
        table = ranks.total(table).flip(1)
        before = torch.tensor([at.above for at in found], dtype=torch.float64)
        spent = table.cumsum(1) + before[:, None]
        fits = (spent <= limits[:, None]).sum(1)
        for q, whole in enumerate(fits.tolist()):
            if found[q].key < 0 or (whole == bins and shift + width == _BITS):
                found[q] = Cutoff(-1, float(spent[q, -1]), 0.0)
                left[q] = []
                continue
            place = min(whole, bins - 1)  # sums round
            key = (found[q].key << width) + bins - 1 - place
            above = float(spent[q, place - 1]) if place else found[q].above
            found[q] = Cutoff(key, above, float(table[q, place]))
            left[q] = [(keys[keys >> shift == key], price) for keys, price in left[q]]
    return found
