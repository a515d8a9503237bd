"""One budget over several layers with bounds: hard and soft masks as a few scalars.

Per layer l with magnitudes a, price p (cost of a kept entry), worth w, beta and bounds:

    maximise   sum_l sum_i w_l a_li m_li + (1/beta) sum_l p_l sum_i H(m_li)
    subject to sum_l p_l sum_i m_li = k,   lower_l <= sum_i m_li <= upper_l

The soft solution is ``m = sigmoid(beta w a / p + clamp(mu, lo_l, hi_l))``: one shared
multiplier mu, and own ones for layers held at a bound. As beta grows it becomes the
hard solution, which buys entries by unit value ``w a / p``. Neither needs the layers
concatenated, all weights sorted, or a mask stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sparsefx.errors import MaskError
from sparsefx.greedy import HardMasks, solve_hard
from sparsefx.layer import Layer, check_layers, hard_mask, soft_mask, total_cost
from sparsefx.projection import BUDGET_SLACK, logit, solve_multiplier
from sparsefx.ranking import chunks, extent

__all__ = [
    "HardMasks",
    "Layer",
    "SoftMasks",
    "hard_mask",
    "soft_mask",
    "solve_hard",
    "solve_soft",
]


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """Soft masks as scalars, one set a layer; see `soft_mask`.

    Attributes:
        slopes: ``beta * worth / price``.
        centers: magnitude near which the mask is 1/2, so that offsets stay small.
        offsets: own or shared multiplier plus ``slope * center``; inf where all are
            kept for certain, -inf where none.
        groups: layers with one number share a multiplier; 0 is the shared budget, a
            layer held at a bound is alone.
        spreads: ``sum price * m * (1 - m)``.
        kept: ``sum m``, the soft count.
        cost: ``sum price * kept``.
        mu: the shared multiplier, ``m = sigmoid(beta * worth * magnitude / price +
            mu)``; inf or -inf if the budget leaves no layer free.
        sweeps: times the masks were evaluated (the layer evaluated most often).
    """

    slopes: tuple[float, ...]
    centers: tuple[float, ...]
    offsets: tuple[float, ...]
    groups: tuple[int, ...]
    spreads: tuple[float, ...]
    kept: tuple[float, ...]
    cost: float
    mu: float
    sweeps: int


def solve_soft(
    layers: Sequence[Layer],
    budget: float,
    beta: float,
    cutoff: float,
    start: float | None = None,
    rtol: float = 1e-6,
    *,
    names: Sequence[str] | None = None,
) -> SoftMasks:
    """Solves the entropic problem of this module's docstring.

    The cost of the clamped layers together grows with mu no faster than without clamps,
    so the one safeguarded Newton of `sparsefx.projection` finds the shared mu; layers
    it pushes past a bound are then solved alone for that bound. Masks are evaluated
    exactly as `soft_mask` does, in the layers' dtypes.

    Args:
        layers: what may be kept.
        budget: the cost to meet, in the unit of the prices; at least the cost of the
            lower bounds. Above the cost of the upper bounds all of them are reached.
        beta: inverse temperature, > 0.
        cutoff: unit value near which the masks are 1/2 (`HardMasks.cutoff`); the first
            guess.
        start: a better first guess of `SoftMasks.mu`, such as the last one times the
            ratio of the betas.
        rtol: the cost meets the budget to this, relative.
        names: of the layers, for errors.

    Raises:
        BudgetError: the budget is below the cost of the lower bounds.
        MaskError: beta is not positive, a layer is ill-formed, or has NaN or infinite
            magnitudes.

    Example:
        >>> layer = Layer(torch.tensor([4.0, 1.0, 3.0]), 1.0, 1.0, 0, 3)
        >>> masks = solve_soft([layer], budget=2.0, beta=2.0, cutoff=3.0)
        >>> round(masks.kept[0], 5)
        2.0
    """
    labels = check_layers(layers, budget, names)
    if not 0.0 < beta < math.inf:
        raise MaskError(f"beta is {beta}; it must be a finite number above 0")
    problem = _Problem(layers, labels, beta, cutoff, 0.25 * rtol)
    least = total_cost(layers, [x.lower for x in layers])
    most = total_cost(layers, [x.upper for x in layers])
    held = {i: x.lower for i, x in enumerate(layers) if x.lower == x.upper}
    free = [i for i in range(len(layers)) if i not in held]
    if budget >= most * (1.0 - BUDGET_SLACK):
        shared, held = math.inf, {i: x.upper for i, x in enumerate(layers)}
    elif budget <= least * (1.0 + BUDGET_SLACK):
        shared, held = -math.inf, {i: x.lower for i, x in enumerate(layers)}
    else:
        fixed = math.fsum(layers[i].price * count for i, count in held.items())
        guess = 0.0 if start is None else start + beta * cutoff
        shared = problem.share(free, budget - fixed, guess)
        for i in free:
            count = problem.at(i, shared).kept
            if not layers[i].lower <= count <= layers[i].upper:
                held[i] = (
                    layers[i].lower if count < layers[i].lower else layers[i].upper
                )
    guess = shared if math.isfinite(shared) else 0.0
    states = [
        problem.hold(i, held[i], guess) if i in held else problem.at(i, shared)
        for i in range(len(layers))
    ]
    alone = {i: number for number, i in enumerate(sorted(held), start=1)}
    return SoftMasks(
        slopes=tuple(state.slope for state in states),
        centers=tuple(state.center for state in states),
        offsets=tuple(state.offset for state in states),
        groups=tuple(alone.get(i, 0) for i in range(len(layers))),
        spreads=tuple(
            layer.price * state.spread
            for layer, state in zip(layers, states, strict=True)
        ),
        kept=tuple(state.kept for state in states),
        cost=total_cost(layers, [state.kept for state in states]),
        mu=shared - beta * cutoff,
        sweeps=problem.sweeps,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """A layer's mask at some multiplier: its scalars and sums."""

    slope: float
    center: float
    offset: float
    kept: float
    spread: float


class _Problem:
    """The layers' masks as functions of a multiplier; remembers what it evaluated.

    ``m = sigmoid(slope * (magnitude - half) + nu)``, with multipliers nu counted from
    the cutoff, or from the middle of a layer alone: mu may be huge, and then coarse.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        names: Sequence[str],
        beta: float,
        cutoff: float,
        rtol: float,
    ) -> None:
        self.layers, self.beta, self.cutoff, self.rtol = layers, beta, cutoff, rtol
        self.flats = [layer.magnitude.detach().reshape(-1) for layer in layers]
        self.ranges = [extent(*pair) for pair in zip(self.flats, names, strict=True)]
        self.states: dict[tuple[int, float, bool], _State] = {}

    @property
    def sweeps(self) -> int:
        """Evaluations of the layer evaluated most often."""
        return max(Counter(i for i, _, _ in self.states).values(), default=0)

    def slope(self, i: int) -> float:
        """Slope of layer i's mask, not rounded to its dtype."""
        return self.beta * self.layers[i].worth / self.layers[i].price

    def half(self, i: int, alone: bool) -> float:
        """Magnitude in layer i from which multipliers are counted."""
        if alone:
            return 0.5 * sum(self.ranges[i])
        return self.cutoff * self.layers[i].price / self.layers[i].worth

    def ends(self, i: int, alone: bool = False) -> tuple[float, float]:
        """Least and greatest exponent of layer i at multiplier 0."""
        (low, high), half = self.ranges[i], self.half(i, alone)
        return self.slope(i) * (low - half), self.slope(i) * (high - half)

    def share(self, free: Sequence[int], target: float, guess: float) -> float:
        """The multiplier at which the clamped layers `free` cost `target` together."""
        layers = [self.layers[i] for i in free]
        capacity = total_cost(layers, [x.magnitude.numel() for x in layers])
        least = total_cost(layers, [x.lower for x in layers])
        most = total_cost(layers, [x.upper for x in layers])

        def measure(nu: float) -> tuple[float, float]:
            cost = spread = 0.0
            for i, layer in zip(free, layers, strict=True):
                state = self.at(i, nu)
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

    def hold(self, i: int, count: int, guess: float) -> _State:
        """Layer i alone, keeping `count` entries."""
        size = self.flats[i].numel()
        if count in (0, size):
            certain = self._place(i, math.inf if count else -math.inf, alone=True)
            return replace(certain, kept=float(count))
        even = logit(count, size - count)

        def measure(nu: float) -> tuple[float, float]:
            state = self.at(i, nu, alone=True)
            return state.kept, state.spread

        bottom, top = self.ends(i, alone=True)
        nu, _ = solve_multiplier(
            measure,
            float(count),
            float(size),
            start=guess + self.slope(i) * (self.half(i, True) - self.half(i, False)),
            low=even - top,
            high=even - bottom,
            rtol=self.rtol,
        )
        return self.at(i, nu, alone=True)

    def at(self, i: int, nu: float, alone: bool = False) -> _State:
        """Layer i at multiplier nu; one sweep over it, the first time."""
        key = (i, nu, alone)
        if key not in self.states:
            self.states[key] = self._sweep(i, self._place(i, nu, alone))
        return self.states[key]

    def _place(self, i: int, nu: float, alone: bool) -> _State:
        """Scalars of layer i for a multiplier, in its dtype, without sums.

        The center is where the mask is 1/2, if that is in the layer's range: then the
        offset is near 0, and a sharp mask can still be moved finely.
        """
        low, high = self.ranges[i]
        slope, dtype = self.slope(i), self.flats[i].dtype
        half = self.half(i, alone)
        center = _rounded(min(max(half - nu / slope, low), high), dtype)
        return _State(
            slope=_rounded(min(slope, torch.finfo(dtype).max), dtype),
            center=center,
            offset=_rounded(nu + slope * (center - half), dtype),
            kept=0.0,
            spread=0.0,
        )

    def _sweep(self, i: int, state: _State) -> _State:
        """The state with its sums: float32 within a chunk, double across chunks."""
        kept, spread = [], []
        for _, part in chunks(self.flats[i]):
            m = soft_mask(part, state.slope, state.center, state.offset)
            kept.append(m.sum())
            spread.append((1.0 - m).mul_(m).sum())
        sums = torch.stack([torch.stack(kept), torch.stack(spread)]).double().sum(1)
        total, variance = sums.tolist()
        return replace(state, kept=total, spread=variance)


def _rounded(number: float, dtype: torch.dtype) -> float:
    """The number as a tensor of that dtype holds it."""
    return float(torch.tensor(number, dtype=dtype))
