"""The soft masks of several layers as functions of one multiplier."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sparsefx.kernels import Survey, kernels_for
from sparsefx.kernels.mask_rule import readable, rounded
from sparsefx.solver.hard_masks import HardMasks
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.projection import logit, search_multiplier, solve_multiplier

_GREATEST = {t: torch.finfo(t).max for t in (torch.float32, torch.float64)}


@dataclass(slots=True)
class State:
    """A layer's mask at some multiplier: its scalars and sums."""

    slope: float
    center: float
    offset: float
    kept: float = 0.0
    spread: float = 0.0
    bought: float = 0.0


class Problem:
    """The layers' masks as functions of a multiplier; remembers what it evaluated.

    ``m = sigmoid(slope * (magnitude - half) + nu)``, with multipliers nu counted from
    the cutoff, or from the middle of a layer alone: mu may be huge, and then coarse.
    """

    def __init__(  # noqa: D107
        self,
        layers: Sequence[Layer],
        beta: float,
        cutoff: float,
        rtol: float,
        survey: Survey | None,
        hard: HardMasks | None,
    ) -> None:
        self.layers, self.beta, self.cutoff, self.rtol = layers, beta, cutoff, rtol
        self.flats = [readable(layer.magnitude) for layer in layers]
        self.sizes = [flat.numel() for flat in self.flats]
        self.kernels = kernels_for(self.flats)
        no_band = [0.0] * len(layers)
        self.survey = survey or self.kernels.survey(self.flats, no_band, no_band)
        self.ranges = list(zip(self.survey.lows, self.survey.highs, strict=True))
        self.counts: Sequence[int] = hard.counts if hard else self.sizes
        self.thresholds = hard.thresholds if hard else [-1.0] * len(layers)
        self.lasts = hard.lasts if hard else [size - 1 for size in self.sizes]
        self.states: dict[tuple[int, float, bool], State] = {}
        # slopes are not rounded to a layer's dtype
        self.slopes = [beta * x.sharpness * x.worth / x.price for x in layers]
        self.halves = [cutoff * x.price / x.worth for x in layers]

    @property
    def sweeps(self) -> int:
        """Evaluations of the layer evaluated most often."""
        return max(Counter(i for i, _, _ in self.states).values(), default=0)

    def half(self, i: int, alone: bool) -> float:
        """Magnitude in layer i from which multipliers are counted."""
        return 0.5 * sum(self.ranges[i]) if alone else self.halves[i]

    def ends(self, i: int, alone: bool = False) -> tuple[float, float]:
        """Least and greatest exponent of layer i at multiplier 0."""
        (low, high), half = self.ranges[i], self.half(i, alone)
        return self.slopes[i] * (low - half), self.slopes[i] * (high - half)

    def share(self, free: Sequence[int], target: float, guess: float) -> float:
        """The multiplier at which the clamped layers `free` cost `target` together."""
        layers = [self.layers[i] for i in free]
        capacity = total_cost(layers, [self.sizes[i] for i in free])
        least = total_cost(layers, [x.lower for x in layers])
        most = total_cost(layers, [x.upper for x in layers])

        def measure(nu: float) -> tuple[float, float]:
            cost = spread = 0.0
            for layer, state in zip(layers, self.at(free, nu), strict=True):
                cost += layer.price * min(max(state.kept, layer.lower), layer.upper)
                if layer.lower <= state.kept <= layer.upper:
                    spread += layer.price * state.spread
            return cost, spread

        # If every m is at most d, the cost is at most least + d (capacity - least);
        # if every m is at least d, it is at least d most. That brackets nu.
        bottom = min(self.ends(i)[0] for i in free)
        top = max(self.ends(i)[1] for i in free)
        nu, _ = solve_multiplier(
            measure,
            target,
            capacity,
            start=guess,
            low=logit(target - least, capacity - target) - top,
            high=logit(target, most - target) - bottom,
            rtol=self.rtol,
        )
        return nu

    def hold(
        self,
        counts: Mapping[int, float],
        guess: float = 0.0,
        middles: Mapping[int, float] | None = None,
    ) -> dict[int, State]:
        """Layers alone, each keeping its count; their searches share sweeps.

        Args:
            counts: entries to keep, by layer.
            guess: multiplier near which to look.
            middles: magnitudes at which masks may be 1/2; better guesses.
        """
        found, searches, asked = {}, {}, {}
        for i, count in counts.items():
            size = self.sizes[i]
            if count in (0, size):
                certain = self._place(i, math.inf if count else -math.inf, alone=True)
                bought = float(self.counts[i] if count else 0)
                found[i] = replace(certain, kept=float(count), bought=bought)
                continue
            even = logit(count, size - count)
            bottom, top = self.ends(i, alone=True)
            middle = (middles or {}).get(i, math.nan)
            start = guess + self.slopes[i] * (self.half(i, True) - self.half(i, False))
            if math.isfinite(middle):
                start = self.slopes[i] * (self.half(i, True) - middle)
            searches[i] = search_multiplier(
                float(count),
                float(size),
                start=start,
                low=even - top,
                high=even - bottom,
                rtol=self.rtol,
            )
            asked[i] = next(searches[i])
        while asked:
            places, nus = list(asked), list(asked.values())
            for i, state in zip(places, self.each(places, nus, True), strict=True):
                try:
                    asked[i] = searches[i].send((state.kept, state.spread))
                except StopIteration as end:
                    del asked[i]
                    found[i] = self.at([i], end.value[0], alone=True)[0]
        return found

    def at(self, places: Sequence[int], nu: float, alone: bool = False) -> list[State]:
        """Some layers at multiplier nu; one sweep over them, the first time."""
        return self.each(places, [nu] * len(places), alone)

    def each(
        self, places: Sequence[int], nus: Sequence[float], alone: bool = False
    ) -> list[State]:
        """Some layers, each at its own multiplier."""
        at = dict(zip(places, nus, strict=True))
        new = [i for i in places if (i, at[i], alone) not in self.states]
        if new:
            states = [self._place(i, at[i], alone) for i in new]
            sums = self.kernels.soft_sums(
                [self.flats[i] for i in new],
                [state.slope for state in states],
                [state.center for state in states],
                [state.offset for state in states],
                [self.thresholds[i] for i in new],
                [self.lasts[i] for i in new],
            )
            rows = zip(sums.kept, sums.spread, sums.bought, strict=True)
            for i, state, row in zip(new, states, rows, strict=True):
                state.kept, state.spread, state.bought = row
                self.states[i, at[i], alone] = state
        return [self.states[i, at[i], alone] for i in places]

    def _place(self, i: int, nu: float, alone: bool) -> State:
        """Scalars of layer i for a multiplier, in its dtype, without sums.

        The center is where the mask is 1/2, if that is in the layer's range: then the
        offset is near 0, and a sharp mask can still be moved finely.
        """
        low, high = self.ranges[i]
        slope, dtype, half = self.slopes[i], self.flats[i].dtype, self.half(i, alone)
        center = rounded(min(max(half - nu / slope, low), high), dtype)
        return State(
            slope=rounded(min(slope, _GREATEST[dtype]), dtype),
            center=center,
            offset=rounded(nu + slope * (center - half), dtype),
        )
