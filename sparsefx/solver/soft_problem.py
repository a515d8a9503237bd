"""The soft masks of several layers as functions of one multiplier."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sparsefx.kernels import Survey, kernels_for
from sparsefx.kernels.mask_rule import readable, rounded
from sparsefx.solver.hard_masks import HardMasks
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.magnitude_histogram import Rule
from sparsefx.solver.projection import logit, search_multiplier, solve_multiplier

RTOL = 1e-6  # what is scarce is spent to this, relative
_GREATEST = {t: torch.finfo(t).max for t in (torch.float32, torch.float64)}


class SoftMask(NamedTuple):
    """A layer's soft mask; see `sparsefx.kernels.mask_rule.soft_mask`.

    Attributes:
        slope: ``beta * worth / price``.
        center: magnitude near which the mask is 1/2, so that offsets stay small.
        offset: the multiplier plus ``slope * center``; inf where all is kept for
            certain, -inf where nothing.
        kept: ``sum m``, the soft count.
        spread: ``sum m (1 - m)``.
        bought: ``sum m`` over the entries that the hard mask keeps.
    """

    slope: float
    center: float
    offset: float
    kept: float
    spread: float
    bought: float


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """The soft masks of several layers.

    Attributes:
        rows: one a layer.
        groups: layers with one number share a multiplier; 0 is that of the budgets, a
            layer held at a bound is alone.
        mu: the shared multiplier, ``m = sigmoid(beta * worth * magnitude / price +
            mu)``, of several budgets that of layers at the mean price; inf or -inf if
            the budgets leave no layer free.
        sweeps: times the masks were evaluated (the layer evaluated most often).
    """

    rows: tuple[SoftMask, ...]
    groups: tuple[int, ...]
    mu: float
    sweeps: int

    @property
    def kept(self) -> tuple[float, ...]:
        """Soft counts, one a layer."""
        return tuple(row.kept for row in self.rows)


class Problem:
    """The layers' masks as functions of a multiplier; remembers what it evaluated.

    ``m = sigmoid(slope * (magnitude - half) + nu)``, with multipliers nu counted from
    the cutoff, or from the threshold of a layer alone: mu may be huge, and then coarse.
    """

    def __init__(  # noqa: D107
        self,
        layers: Sequence[Layer],
        beta: float,
        cutoff: float,
        survey: Survey,
        hard: HardMasks | None = None,
        *,
        rtol: float | None = None,
    ) -> None:
        self.layers, self.beta, self.cutoff = layers, beta, cutoff
        self.rtol = 0.25 * RTOL if rtol is None else rtol
        self.flats = [readable(layer.magnitude) for layer in layers]
        self.sizes = [flat.numel() for flat in self.flats]
        self.kernels = kernels_for(self.flats)
        self.ranges = list(zip(survey.lows, survey.highs, strict=True))
        self.counts: Sequence[int] = hard.counts if hard else self.sizes
        self.rules = hard.rules if hard else [Rule(-1.0, n - 1) for n in self.sizes]
        self.states: dict[tuple[int, float, bool], SoftMask] = {}
        # slopes are not rounded to a layer's dtype
        self.slopes = [beta * x.sharpness * x.worth / x.price for x in layers]
        self.halves = [cutoff * x.price / x.worth for x in layers]

    @property
    def sweeps(self) -> int:
        """Evaluations of the layer evaluated most often."""
        return max(Counter(i for i, _, _ in self.states).values(), default=0)

    def half(self, i: int, alone: bool) -> float:
        """Magnitude in layer i from which multipliers are counted.

        Alone, the threshold of the hard mask: there the soft one is about 1/2, however
        sharp it is, so that its multiplier is small and fine.
        """
        low, high = self.ranges[i]
        own = min(max(self.rules[i].threshold, low), high)
        return own if alone else self.halves[i]

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
    ) -> dict[int, SoftMask]:
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
                place = self._place(i, math.inf if count else -math.inf, alone=True)
                bought = float(self.counts[i] if count else 0)
                found[i] = SoftMask(*place, float(count), 0.0, bought)
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

    def at(
        self, places: Sequence[int], nu: float, alone: bool = False
    ) -> list[SoftMask]:
        """Some layers at multiplier nu; one sweep over them, the first time."""
        return self.each(places, [nu] * len(places), alone)

    def each(
        self, places: Sequence[int], nus: Sequence[float], alone: bool = False
    ) -> list[SoftMask]:
        """Some layers, each at its own multiplier."""
        at = dict(zip(places, nus, strict=True))
        new = [i for i in places if (i, at[i], alone) not in self.states]
        if new:
            scalars = [self._place(i, at[i], alone) for i in new]
            sums = self.kernels.soft_sums(
                [self.flats[i] for i in new],
                *map(list, zip(*scalars, strict=True)),
                *map(list, zip(*(self.rules[i] for i in new), strict=True)),
            )
            rows = zip(sums.kept, sums.spread, sums.bought, strict=True)
            for i, place, row in zip(new, scalars, rows, strict=True):
                self.states[i, at[i], alone] = SoftMask(*place, *row)
        return [self.states[i, at[i], alone] for i in places]

    def split(
        self, free: Sequence[int], nus: Sequence[float]
    ) -> tuple[dict[int, SoftMask], dict[int, float]]:
        """Layers within their bounds at these multipliers; counts of the others."""
        inside, held = {}, {}
        for i, state in zip(free, self.each(free, nus), strict=True):
            layer = self.layers[i]
            if layer.lower <= state.kept <= layer.upper:
                inside[i] = state
            else:
                low = state.kept < layer.lower
                held[i] = float(layer.lower if low else layer.upper)
        return inside, held

    def masks(
        self,
        inside: Mapping[int, SoftMask],
        held: Mapping[int, float],
        mu: float,
        extra: float,
        guess: float = 0.0,
        middles: Mapping[int, float] | None = None,
    ) -> SoftMasks:
        """The masks of all layers, once it is known which are held at a bound.

        Args:
            inside: layers of the shared multiplier.
            held: counts of the other layers.
            mu: the shared multiplier.
            extra: entries, less than one, that layers of equal bounds keep beyond them.
            guess: multiplier near which those of held layers may be.
            middles: magnitudes at which their masks may be 1/2; better guesses.
        """
        counts = dict(held)
        for i, (layer, size) in enumerate(zip(self.layers, self.sizes, strict=True)):
            if layer.lower == layer.upper < size:
                counts[i] = layer.lower + extra
        states = {**inside, **self.hold(counts, guess, middles)}
        numbers = {i: number for number, i in enumerate(sorted(counts), start=1)}
        return SoftMasks(
            rows=tuple(states[i] for i in range(len(self.layers))),
            groups=tuple(numbers.get(i, 0) for i in range(len(self.layers))),
            mu=mu,
            sweeps=self.sweeps,
        )

    def _place(self, i: int, nu: float, alone: bool) -> tuple[float, float, float]:
        """Slope, center and offset of layer i for a multiplier, in its dtype.

        The center is where the mask is 1/2, if that is in the layer's range: then the
        offset is near 0, and a sharp mask can still be moved finely.
        """
        low, high = self.ranges[i]
        slope, dtype, half = self.slopes[i], self.flats[i].dtype, self.half(i, alone)
        center = rounded(min(max(half - nu / slope, low), high), dtype)
        offset = rounded(nu + slope * (center - half), dtype)
        return rounded(min(slope, _GREATEST[dtype]), dtype), center, offset
