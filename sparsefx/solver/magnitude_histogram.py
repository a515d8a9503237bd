"""Ranks of magnitudes without sorting them: a histogram of bit patterns.

The bits of non-negative floats, read as integers, are in the order of the floats. One
sweep counts their upper 15 bits; a rank then lies in a known bin, and only the few
distinct magnitudes of that bin are looked at. Nothing of the size of a weight is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.kernels import BINS, Survey, kernels_for
from sparsefx.kernels.reference import chunks

_SMALL = 2**12  # up to this many entries, every magnitude is its own bin
_SHIFTS = {torch.float32: (torch.int32, 16), torch.float64: (torch.int64, 48)}


class Rule(NamedTuple):
    """Which entries of a tensor a hard mask keeps; see `rule`.

    Attributes:
        threshold: an entry is kept if it is above, or equal and not after `last`; an
            exact value of the tensor's dtype, -1 where all are kept.
        last: last flat index kept among the entries equal to the threshold.
    """

    threshold: float
    last: int


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
        bottom = int(self.reach[-1]) if len(self.reach) else self.above
        return self.above < rank <= bottom


@dataclass(frozen=True, slots=True)
class Ranking:
    """Counts of a tensor's magnitudes by bin; see `rank`.

    Attributes:
        flat: the weight, flat (a view); signs do not matter.
        edges: smallest magnitude of each bin, and one past the last, float64.
        reach: number of entries in that bin or above; 0 past the last, int64.
        exact: every bin is one magnitude.
    """

    flat: Tensor
    edges: Tensor
    reach: Tensor
    exact: bool

    def levels(self, first: int, last: int) -> Levels:
        """Distinct magnitudes of bins `first` to `last`, both included."""
        above = int(self.reach[last + 1])
        if self.exact:
            bins = slice(first, last + 1)
            return Levels(self.edges[bins].flip(0), self.reach[bins].flip(0), above)
        low, high = self.edges[first].item(), self.edges[last + 1].item()
        found = kernels_for([self.flat]).survey([self.flat], [low], [high]).bands[0]
        if found is not None:
            values, counts, _ = kernels_for([found]).distinct([found])
            return Levels(values, counts.cumsum(0).add_(above), above)
        # many ties: all zeros, say; piece by piece, so that little is made
        parts, sizes = [], []
        for _, part in chunks(self.flat):
            found = part[(part >= low) & (part < high)]
            value, count = torch.unique(found, return_counts=True)
            parts.append(value.double().cpu())
            sizes.append(count.cpu())
        distinct, where = torch.unique(torch.cat(parts), return_inverse=True)
        total = torch.zeros(len(distinct), dtype=torch.int64)
        total.index_add_(0, where, torch.cat(sizes))
        return Levels(distinct.flip(0), above + total.flip(0).cumsum(0), above)

    def threshold(self, count: int, known: Levels | None = None) -> Rule:
        """The rule that keeps the `count` largest entries; see `rule`.

        Args:
            count: entries to keep, in [0, n].
            known: levels that may already hold the rank.
        """
        if 0 < count < self.flat.numel() and not (known and known.holds(count)):
            # reach decreases, so its negative is sorted; the last bin that reaches
            place = torch.searchsorted(-self.reach, -count, right=True)
            known = self.levels(int(place) - 1, int(place) - 1)
        return rule(self.flat, count, known)


def rule(flat: Tensor, count: int, levels: Levels | None) -> Rule:
    """The rule that keeps the `count` largest entries, ties by lowest index.

    All kept is ``(-1, n - 1)``, which stays true when entries move; none kept is the
    next float above every entry, and -1.

    Args:
        flat: the weight, flat.
        count: entries to keep, in [0, n].
        levels: hold the rank, unless all or none are kept.
    """
    size, dtype = flat.numel(), flat.dtype
    if count == size:
        return Rule(-1.0, size - 1)
    if count == 0:
        low, high = flat.aminmax()
        largest = torch.maximum(-low, high)
        above = torch.nextafter(largest, torch.full_like(largest, math.inf))
        return Rule(min(float(above), torch.finfo(dtype).max), -1)
    assert levels is not None
    level = int(torch.searchsorted(levels.reach, count))
    value = float(levels.values[level])
    if int(levels.reach[level]) == count:
        return Rule(value, size - 1)
    larger = int(levels.reach[level - 1]) if level else levels.above
    return Rule(value, kernels_for([flat]).find(flat, value, count - larger))


def rank(weight: Tensor, name: str) -> Ranking:
    """Counts the magnitudes by the upper bits of their patterns; one sweep.

    Args:
        weight: float32 or float64, any shape; signs do not matter.
        name: the weight's name, for the error.

    Raises:
        MaskError: an entry is NaN or infinite.

    Example:
        >>> ranking = rank(torch.tensor([0.5, 3.0, 0.0, 0.5]), "fc.weight")
        >>> ranking.threshold(2)
        Rule(threshold=0.5, last=0)
    """
    flat = weight.detach().reshape(-1)
    small = flat.numel() <= _SMALL
    if small:
        values, counts = torch.unique(flat.abs().cpu(), return_counts=True)
        starts = values.double()
    else:
        integer, shift = _SHIFTS[flat.dtype]
        patterns = torch.arange(BINS, dtype=integer).bitwise_left_shift(shift)
        starts = patterns.view(flat.dtype).double()
        counts = kernels_for([flat]).histogram(flat).cpu()
    if counts[~starts.isfinite()].any():
        raise MaskError(non_finite(name))
    edges = torch.cat([starts, torch.tensor([math.inf], dtype=torch.float64)])
    reach = torch.cat([counts.flip(0).cumsum(0).flip(0), torch.zeros(1).long()])
    return Ranking(flat, edges, reach, small)


def check_finite(survey: Survey, names: Sequence[str]) -> None:
    """Refuses weights that cannot be ranked.

    Raises:
        MaskError: an entry is NaN or infinite.
    """
    for low, high, name in zip(survey.lows, survey.highs, names, strict=True):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise MaskError(non_finite(name))


def non_finite(name: str) -> str:
    """What to say about a weight with NaN or infinite entries."""
    return (
        f"weight {name!r} has NaN or infinite entries; masks rank magnitudes and need "
        "finite ones: restore a checkpoint, or lower the learning rate"
    )
