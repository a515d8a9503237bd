"""How many entries each layer keeps as its multiplier moves, learnt from sweeps.

A sweep tells, for every layer, the soft count K and its derivative S at one multiplier
nu. In ``g = logit(K / n)`` such a curve is nearly a line, of a slope in (0, 1]; between
sweeps it is a monotone cubic, beyond them a line. So few sweeps tell everything, and
what is asked in between costs nothing that grows with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FLAT = 1e-9  # least slope: a curve always rises a little, so that it has an inverse
_STEEP = 3.0  # slopes up to so many secants keep a cubic monotone


class Curves:
    """Soft counts of several layers as functions of their multipliers.

    Args:
        sizes: entries of each layer, n.
        lower: least counts; the curves are clamped to them.
        upper: greatest counts.
        ends: least and greatest exponent of each layer at multiplier 0; they say how
            a curve goes on where its masks have underflowed.

    Example:
        >>> curves = Curves([4, 4], [0, 0], [4, 3], [(0.0, 0.0), (0.0, 0.0)])
        >>> curves.add([0.0, 0.0], [2.0, 2.0], [1.0, 1.0])
        >>> kept, spread = curves.at(torch.tensor([0.0, 9.0], dtype=torch.float64))
        >>> kept.tolist(), spread.tolist()
        ([2.0, 3.0], [1.0, 0.0])
    """

    def __init__(  # noqa: D107
        self,
        sizes: Sequence[int],
        lower: Sequence[float],
        upper: Sequence[float],
        ends: Sequence[tuple[float, float]],
    ) -> None:
        self._sizes = _vector(sizes)
        self._lower, self._upper = _vector(lower), _vector(upper)
        self._bottom = _vector([low for low, _ in ends])
        self._top = _vector([high for _, high in ends])
        none = torch.empty(len(sizes), 0, dtype=torch.float64)
        self._nu, self._g, self._slope = none, none, none

    def add(
        self, nu: Sequence[float], kept: Sequence[float], spread: Sequence[float]
    ) -> None:
        """What one sweep found; one entry a layer.

        Args:
            nu: multipliers.
            kept: ``sum m``.
            spread: ``sum m (1 - m)``.
        """
        at, s = _vector(nu), _vector(spread)
        # sums round: both K and n - K are at least S
        k, rest = torch.maximum(_vector(kept), s), self._sizes - _vector(kept)
        rest = torch.maximum(rest, s)
        g = k.log() - rest.log()
        # nothing left in the sums: at least the layer's outermost entry is
        outer = self._sizes.log()
        g = torch.where(k <= 0, (at + self._top).clamp_max(0.0) - outer, g)
        g = torch.where(rest <= 0, (at + self._bottom).clamp_min(0.0) + outer, g)
        slope = (s / k * (self._sizes / rest)).nan_to_num(1.0).clamp(_FLAT, 1.0)
        rows = torch.cat([self._nu, at[:, None]], 1)
        self._nu, order = rows.sort(dim=1, stable=True)
        self._g = torch.cat([self._g, g[:, None]], 1).gather(1, order)
        self._slope = torch.cat([self._slope, slope[:, None]], 1).gather(1, order)
        self._g = self._g.cummax(1).values  # rounding must not make a curve fall

    def at(self, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Counts within the bounds and their derivatives, 0 where a bound holds."""
        g, slope = self._logits(nu)
        share = torch.sigmoid(g)
        kept = self._sizes * share
        spread = kept * torch.sigmoid(-g) * slope
        held = (kept < self._lower) | (kept > self._upper)
        kept = torch.minimum(torch.maximum(kept, self._lower), self._upper)
        return kept, spread.masked_fill(held, 0.0)

    def _logits(self, nu: Tensor) -> tuple[Tensor, Tensor]:
        points = self._nu.shape[1]
        right = torch.searchsorted(self._nu, nu[:, None]).clamp(0, points)
        a, b = (right - 1).clamp_min(0), right.clamp_max(points - 1)
        x0, x1 = self._nu.gather(1, a)[:, 0], self._nu.gather(1, b)[:, 0]
        g0, g1 = self._g.gather(1, a)[:, 0], self._g.gather(1, b)[:, 0]
        d0, d1 = self._slope.gather(1, a)[:, 0], self._slope.gather(1, b)[:, 0]
        h = x1 - x0
        inside = h > 0
        width = torch.where(inside, h, torch.ones_like(h))
        secant = ((g1 - g0) / width).clamp_min(_FLAT)
        t = (nu - x0) / width
        e0 = torch.minimum(d0, _STEEP * secant)
        e1 = torch.minimum(d1, _STEEP * secant)
        # the cubic with these ends and slopes
        c2 = 3 * secant - 2 * e0 - e1
        c3 = e0 + e1 - 2 * secant
        cubic = g0 + width * t * (e0 + t * (c2 + t * c3))
        rise = e0 + t * (2 * c2 + t * 3 * c3)
        line = g0 + d0 * (nu - x0)
        return (
            torch.where(inside, cubic, line),
            torch.where(inside, rise.clamp_min(_FLAT), d0),
        )


def _vector(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)
