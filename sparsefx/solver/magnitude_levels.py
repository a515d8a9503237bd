"""The distinct magnitudes of several layers, and how many entries reach each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.kernels import Survey, kernels_for
from sparsefx.solver.magnitude_histogram import Rule, rank, rule


@dataclass(frozen=True, slots=True)
class Ladder:
    """What bands tell of their layers, in one row for all: few operations do many.

    Attributes:
        values: distinct magnitudes, float64; those of a layer decrease.
        counts: entries of exactly that magnitude, int64.
        owner: layer of each, int64.
        reach: entries of its layer at least as large, int64.
        first: where each layer begins.
        above: entries of each layer larger than all of it here.
        bottom: entries of each layer at least as large as the smallest of it here.
    """

    values: Tensor
    counts: Tensor
    owner: Tensor
    reach: Tensor
    first: Tensor
    above: Sequence[int]
    bottom: Sequence[int]

    @classmethod
    def of(cls, survey: Survey) -> Ladder:
        """The magnitudes in a survey's bands; none of a band too large to gather.

        Example:
            >>> weight = torch.tensor([1.0, -2.0, 3.0, 2.0])
            >>> survey = kernels_for([weight]).survey([weight], [1.5], [2.5])
            >>> ladder = Ladder.of(survey)
            >>> ladder.values.tolist(), ladder.reach.tolist(), ladder.above
            ([2.0], [3], (1,))
        """
        bands = [torch.empty(0) if band is None else band for band in survey.bands]
        values, counts, lengths = kernels_for(bands).distinct(bands)
        sizes, above = (
            torch.tensor(x, dtype=torch.int64) for x in (lengths, survey.above)
        )
        owner = torch.repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes
        passed = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        before = passed[first]
        return cls(
            values=values,
            counts=counts,
            owner=owner,
            reach=passed[1:] + (above - before)[owner],
            first=first,
            above=survey.above,
            bottom=(above + passed[first + sizes] - before).tolist(),
        )

    def rules(
        self, flats: Sequence[Tensor], counts: Sequence[int], names: Sequence[str]
    ) -> list[Rule]:
        """The rules that keep so many entries of each layer; see `rule`.

        Args:
            flats: the weights, flat.
            counts: entries to keep, one number a layer.
            names: the weights' names, for errors.
        """
        wanted = torch.tensor(counts, dtype=torch.int64)[self.owner]
        short = torch.bincount(self.owner[self.reach < wanted], minlength=len(flats))
        place = (self.first + short).clamp_max(max(len(self.values) - 1, 0))
        found = [
            x[place].tolist() if len(x) else [0] * len(flats)
            for x in (self.values, self.counts, self.reach)
        ]
        rows = zip(flats, counts, names, self.above, self.bottom, *found, strict=True)
        rules = []
        for flat, count, name, above, bottom, value, tied, reach in rows:
            if count in (0, flat.numel()):
                rules.append(rule(flat, count, None))
            elif not above < count <= bottom:
                # how many are kept is sure; the least of them lies outside the band
                rules.append(rank(flat, name).threshold(count))
            elif reach == count:
                rules.append(Rule(value, flat.numel() - 1))
            else:
                nth = count - (reach - tied)
                rules.append(Rule(value, kernels_for([flat]).find(flat, value, nth)))
        return rules
