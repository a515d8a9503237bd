"""Ranks of magnitudes without sorting them: a histogram of bit patterns.

The bits of non-negative floats, read as integers, are in the order of the floats. One
sweep counts their upper 15 bits; a rank then lies in a known bin, and only the few
distinct magnitudes of that bin are looked at. Nothing of the size of a weight is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.errors import MaskError

CHUNK = 2**18  # entries of one piece of a sweep: it stays in cache
NUM_BINS = 2**15
_BITS = {torch.float32: (torch.int32, 16), torch.float64: (torch.int64, 48)}


@dataclass(frozen=True, slots=True)
class Levels:
    """The distinct magnitudes of a range of bins, the largest first.

    Attributes:
        values: the magnitudes, float64, decreasing.
        reach: number of entries of the whole tensor at least as large, int64.
        above: number of entries larger than every value here.
    """

    values: Tensor
    reach: Tensor
    above: int

    def holds(self, rank: int) -> bool:
        """Whether the entry of this rank (from 1) has one of these values."""
        return self.above < rank <= (int(self.reach[-1]) if len(self.reach) else 0)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Counts of a tensor's magnitudes by bin; see `rank`.

    Attributes:
        magnitude: the flat magnitudes (a view).
        edges: smallest magnitude of each bin, and one past the last, float64.
        reach: number of entries in that bin or above; 0 past the last, int64.
    """

    magnitude: Tensor
    edges: Tensor
    reach: Tensor

    def levels(self, first: int, last: int) -> Levels:
        """Distinct magnitudes of bins `first` to `last`, both included."""
        low, high = self.edges[first].item(), self.edges[last + 1].item()
        values, counts = [], []
        for _, part in chunks(self.magnitude):
            found = part[(part >= low) & (part < high)]
            if found.numel() == 0:
                continue
            bottom, top = found.aminmax()
            if bottom == top:  # many ties: all zeros, say
                value, count = top[None], torch.tensor([found.numel()])
            else:
                value, count = torch.unique(found, return_counts=True)
            values.append(value.double().cpu())
            counts.append(count.cpu())
        above = int(self.reach[last + 1])
        if not values:
            none = torch.zeros(0, dtype=torch.int64)
            return Levels(none.double(), none, above)
        distinct, where = torch.unique(torch.cat(values), return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.int64)
        total.index_add_(0, where, torch.cat(counts))
        return Levels(distinct.flip(0), above + total.flip(0).cumsum(0), above)

    def threshold(self, count: int, known: Levels | None = None) -> tuple[float, int]:
        """The rule that keeps the `count` largest entries, ties by lowest index.

        An entry is kept if it is above the threshold, or equal to it and not after the
        flat index `last`. All kept is ``(-1, n - 1)``, which stays true when entries
        move; none kept is the next float above every entry, and -1.

        Args:
            count: entries to keep, in [0, n].
            known: levels that may already hold the rank.

        Returns:
            The threshold, exactly a value of the tensor's dtype, and `last`.
        """
        size, dtype = self.magnitude.numel(), self.magnitude.dtype
        if count == size:
            return -1.0, size - 1
        if count == 0:
            largest = self.magnitude.amax()
            above = torch.nextafter(largest, torch.full_like(largest, math.inf))
            return min(float(above), torch.finfo(dtype).max), -1
        if known is None or not known.holds(count):
            # reach decreases, so its negative is sorted; the last bin that reaches
            place = torch.searchsorted(-self.reach, -count, right=True)
            known = self.levels(int(place) - 1, int(place) - 1)
        level = int(torch.searchsorted(known.reach, count))
        value = float(known.values[level])
        if int(known.reach[level]) == count:
            return value, size - 1
        larger = int(known.reach[level - 1]) if level else known.above
        return value, self._find(value, count - larger)

    def _find(self, value: float, nth: int) -> int:
        """Flat index of the nth entry (from 1) equal to `value`."""
        for start, part in chunks(self.magnitude):
            here = (part == value).nonzero()
            if len(here) >= nth:
                return start + int(here[nth - 1])
            nth -= len(here)
        raise AssertionError(f"fewer entries equal {value} than were counted")


def rank(magnitude: Tensor, name: str) -> Ranking:
    """Counts the magnitudes by the upper bits of their patterns; one sweep.

    Args:
        magnitude: non-negative float32 or float64, any shape.
        name: the weight's name, for the error.

    Raises:
        MaskError: an entry is NaN or infinite.

    Example:
        >>> ranking = rank(torch.tensor([0.5, 3.0, 0.0, 0.5]), "fc.weight")
        >>> ranking.threshold(2)
        (0.5, 0)
    """
    flat = magnitude.detach().reshape(-1)
    integer, shift = _BITS[flat.dtype]
    bins = torch.zeros(NUM_BINS, dtype=torch.int64, device=flat.device)
    for _, part in chunks(flat):
        keys = part.view(integer).bitwise_right_shift(shift)
        bins += torch.bincount(keys.bitwise_and_(NUM_BINS - 1), minlength=NUM_BINS)
    patterns = torch.arange(NUM_BINS, dtype=integer).bitwise_left_shift(shift)
    edges = torch.cat([patterns.view(flat.dtype).double(), torch.tensor([math.inf])])
    counts = bins.cpu()
    if counts[~edges[:-1].isfinite()].any():
        raise MaskError(_non_finite(name))
    reach = torch.cat([counts.flip(0).cumsum(0).flip(0), torch.zeros(1).long()])
    return Ranking(flat, edges, reach)


def chunks(flat: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Pieces of at most `CHUNK` entries of a flat tensor, with their start."""
    for start in range(0, flat.numel(), CHUNK):
        yield start, flat[start : start + CHUNK]


def extent(flat: Tensor, name: str) -> tuple[float, float]:
    """Least and greatest magnitude of a weight, (0, 0) if it is empty.

    Raises:
        MaskError: an entry is NaN or infinite.
    """
    if flat.numel() == 0:
        return 0.0, 0.0
    low, high = (float(end) for end in flat.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise MaskError(_non_finite(name))
    return low, high


def _non_finite(name: str) -> str:
    """What to say about a weight with NaN or infinite entries."""
    return (
        f"weight {name!r} has NaN or infinite entries; masks rank magnitudes and need "
        "finite ones: restore a checkpoint, or lower the learning rate"
    )
