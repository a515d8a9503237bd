"""The sweeps over weights of which each rank holds a part.

A rank sweeps its own part by the fastest kernels there are; what comes out, a few
numbers a tensor, is added up over ranks. Hard masks are chosen in
`sparsefx.solver.hard_masks_shared`, which sorts nothing either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sparsefx.kernels import SoftSums, Survey, kernels_for
from sparsefx.kernels.ranks import Ranks


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """Where a rank's part lies in a tensor: a range of every dimension.

    Attributes:
        whole: the tensor's shape.
        shape: the part's.
        offset: its first index in each dimension.
    """

    whole: tuple[int, ...]
    shape: tuple[int, ...]
    offset: tuple[int, ...]

    def upto(self, last: int) -> int:
        """How many of the part's entries have a flat index of at most `last`.

        Entries of the part are in the order of the whole tensor.

        Example:
            >>> Box((4, 3), (2, 2), (1, 1)).upto(5)
            2
        """
        if last < 0:
            return 0
        count, inner = 0, math.prod(self.shape)
        stride = math.prod(self.whole)
        for size, length, start in zip(
            self.whole, self.shape, self.offset, strict=True
        ):
            stride //= size
            inner //= max(length, 1)
            here = last // stride - start
            last %= stride
            if not 0 <= here < length:
                return count + inner * (length if here >= length else 0)
            count += here * inner
        return count + 1

    def indices(self, places: Tensor) -> Tensor:
        """Flat indices in the whole tensor of places in the part.

        Example:
            >>> Box((4, 3), (2, 2), (1, 1)).indices(torch.arange(4)).tolist()
            [4, 5, 7, 8]
        """
        found, stride = torch.zeros_like(places), 1
        for size, length, start in zip(
            self.whole[::-1], self.shape[::-1], self.offset[::-1], strict=True
        ):
            found += (places % length + start) * stride
            places, stride = places // length, stride * size
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A rank's part of a tensor, which the solver takes as it takes a flat tensor.

    Attributes:
        local: the part, flat, float32 or float64.
        box: where it lies.
        ranks: who holds the rest.
        counted: of ranks that hold the same part, this is the one that counts it.
    """

    local: Tensor
    box: Box
    ranks: Ranks
    counted: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the entries."""
        return self.local.dtype

    def numel(self) -> int:
        """Entries of the whole tensor."""
        return math.prod(self.box.whole)

    def own(self) -> Tensor:
        """Magnitudes that this rank counts, float64."""
        kept = self.local if self.counted else self.local[:0]
        return kept.detach().abs().double()

    def indices(self, chosen: Tensor) -> Tensor:
        """Flat indices in the whole tensor where a mask of `own` is True."""
        return self.box.indices(chosen.nonzero().squeeze(1))


def shards(tensors: Sequence[Tensor]) -> Sequence[Shard] | None:
    """The tensors as shards, None where a rank holds them whole."""
    if tensors and isinstance(tensors[0], Shard):
        return cast(Sequence[Shard], tensors)
    return None


def survey(
    weights: Sequence[Shard], lows: Sequence[float], highs: Sequence[float]
) -> Survey:
    """See `Kernels.survey`; bands are those of this rank's entries."""
    ranks = weights[0].ranks
    locals_ = [w.local if w.counted else w.local[:0] for w in weights]
    found = kernels_for(locals_).survey(locals_, lows, highs)
    count = len(weights)
    sums = ranks.total([*found.sums, *found.above]).tolist()
    ends = []
    for part, low, high, band in zip(
        locals_, found.lows, found.highs, found.bands, strict=True
    ):
        sound = math.isfinite(low) and math.isfinite(high)
        top, bottom = (high, -low) if sound else (math.inf, math.inf)
        ends.append([top, bottom if part.numel() else -math.inf, float(band is None)])
    tops, bottoms, missing = ranks.most(
        torch.tensor(ends, dtype=torch.float64)
    ).T.tolist()
    return Survey(
        sums=tuple(sums[:count]),
        lows=tuple(-x if x > -math.inf else 0.0 for x in bottoms),
        highs=tuple(tops),
        above=tuple(int(n) for n in sums[count:]),
        bands=tuple(
            None if gone else band
            for band, gone in zip(found.bands, missing, strict=True)
        ),
        edges=found.edges,
    )


def soft_sums(
    weights: Sequence[Shard],
    slope: Sequence[float],
    center: Sequence[float],
    mu: Sequence[float],
    threshold: Sequence[float],
    last: Sequence[int],
) -> SoftSums:
    """See `Kernels.soft_sums`."""
    locals_ = [w.local if w.counted else w.local[:0] for w in weights]
    own = [w.box.upto(n) - 1 for w, n in zip(weights, last, strict=True)]
    rules = (slope, center, mu, threshold, own)
    found = kernels_for(locals_).soft_sums(locals_, *rules)
    rows = [found.kept, found.spread, found.bought]
    sums = weights[0].ranks.total(torch.tensor(rows, dtype=torch.float64))
    return SoftSums(*map(tuple, sums.tolist()))


def hard_masks(
    weights: Sequence[Shard],
    threshold: Sequence[float],
    last: Sequence[int],
    into: Sequence[Tensor],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """See `Kernels.hard_masks`; writes the masks of this rank's entries."""
    locals_ = [w.local for w in weights]
    own = [w.box.upto(n) - 1 for w, n in zip(weights, last, strict=True)]
    found = kernels_for(locals_).hard_masks(locals_, threshold, own, into)
    counted = [
        [n * w.counted for n, w in zip(row, weights, strict=True)] for row in found
    ]
    sums = weights[0].ranks.counts([*counted[0], *counted[1]])
    return sums[: len(weights)], sums[len(weights) :]
