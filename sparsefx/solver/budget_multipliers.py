r"""Several budgets at once: a small convex dual, one price for each budget.

Budget b allows ``k_b`` and a kept entry of layer l costs ``c_bl``. With the layers'
prices p (what their entropy counts) the soft masks are

    m = sigmoid(beta (w a / p - u_l)),    u_l = sum_b x_b q_bl,    q_bl = c_bl / p_l

The multipliers x minimise a convex function whose derivatives are the unspent budgets
``k_b - sum_l c_bl K_l``, K_l being the count of layer l within its bounds: x_b >= 0,
and a budget with x_b > 0 is spent to the last. One of them, the `leader`, is spent in
any case; its multiplier may have any sign, as that of a single budget has.

Newton's method on `sparsefx.solver.count_curves` finds x; a sweep over the weights then
tells how far off the curves were there, and adds to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.solver.count_curves import Curves
from sparsefx.solver.nested_bisection import nested_root

_SWEEPS = 60
_ROUNDS = 25  # of Newton's method on the curves, which costs no sweep
_REACH = 4.0  # a step changes no multiplier by more than so many times itself
_ENOUGH = 0.1  # a line search ends when the derivative along it has fallen to this


@dataclass(frozen=True, slots=True)
class Prices:
    """What the budgets ask of the layers that are free, in shares of the budgets.

    Attributes:
        costs: ``c_bl / k_b``, shape (budgets, layers), float64.
        ratios: ``q_bl``, same shape.
        targets: what these layers may spend together, as a share of ``k_b``.
        leader: number of the budget that is spent in any case, or None.
    """

    costs: Tensor
    ratios: Tensor
    targets: Tensor
    leader: int | None

    def units(self, x: Tensor) -> Tensor:
        """The unit values ``u_l`` at which masks are 1/2."""
        return x @ self.ratios

    def open(self, x: Tensor) -> Tensor:
        """Which budgets must be spent to the last at these multipliers."""
        found = x > 0
        if self.leader is not None:
            found[self.leader] = True
        return found

    def clipped(self, x: Tensor) -> Tensor:
        """The nearest multipliers that are allowed."""
        out = x.clamp_min(0.0)
        if self.leader is not None:
            out[self.leader] = x[self.leader]
        return out

    def excess(self, kept: Tensor) -> Tensor:
        """What these counts spend above the targets."""
        return self.costs @ kept - self.targets

    def error(self, x: Tensor, excess: Tensor) -> float:
        """How far from optimal, as a share of the worst budget."""
        wrong = torch.where(self.open(x), excess.abs(), excess.clamp_min(0.0))
        return float(wrong.max()) if len(wrong) else 0.0


_Sweep = Callable[[list[float]], tuple[list[float], list[float], list[float]]]


def solve_multipliers(
    sweep: _Sweep,
    curves: Curves,
    prices: Prices,
    beta: float,
    cutoff: float,
    start: Sequence[float],
    rtol: float,
) -> tuple[list[float], list[float]]:
    """Finds the multipliers x of this module's docstring.

    Args:
        sweep: maps multipliers ``nu_l = beta (cutoff - u_l)``, one a layer, to the
            counts within the bounds, the counts and their derivatives.
        curves: of the same layers, to be added to.
        prices: of the budgets.
        beta: inverse temperature.
        cutoff: unit value from which ``nu`` is counted.
        start: first guess of x.
        rtol: shares of the budgets that may be missed.

    Returns:
        The multipliers and the ``nu``, which is always one that was swept.

    Example:
        >>> curves = Curves([2], [0], [2], [(0.0, 0.0)])
        >>> def sweep(nu):
        ...     m = 1 / (1 + math.exp(-nu[0]))
        ...     return [2 * m], [2 * m], [2 * m * (1 - m)]
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> x, nu = solve_multipliers(
        ...     sweep, curves, Prices(one, one, one[0], 0), 1.0, 0.0, [3.0], 1e-9)
        >>> abs(nu[0]) < 1e-8
        True
    """
    x = prices.clipped(torch.tensor(start, dtype=torch.float64))
    scale = max(float(x.abs().max()), 1.0 / beta)
    least, best = math.inf, (x.tolist(), [0.0] * prices.costs.shape[1])
    tries = 0
    while tries < _SWEEPS:
        tries += 1
        nu = (beta * (cutoff - prices.units(x))).tolist()
        clamped, kept, spread = sweep(nu)
        excess = prices.excess(torch.tensor(clamped, dtype=torch.float64))
        error = prices.error(x, excess)
        if error < least:
            least, best = error, (x.tolist(), nu)
        if error <= rtol:
            break
        curves.add(nu, kept, spread)
        tol = max(0.1 * rtol, 1e-3 * error)  # far off, the curves are not exact either
        moved = _settle(curves, prices, beta, cutoff, x, scale, tol)
        if bool((moved == x).all()):
            break
        x = moved
    return best


def _settle(
    curves: Curves,
    prices: Prices,
    beta: float,
    cutoff: float,
    x: Tensor,
    scale: float,
    tol: float,
) -> Tensor:
    """The multipliers that are right if the curves are."""

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        kept, spread = curves.at(beta * (cutoff - prices.units(x)))
        return prices.excess(kept), spread

    first, errors = x, [math.inf]
    # far beyond what was swept the curves are guesses
    far = 2 * _REACH * first.abs().clamp_min(0.25 * scale)
    for _ in range(_ROUNDS):
        excess, spread = look(x)
        errors.append(prices.error(x, excess))
        if errors[-1] <= tol:
            return x
        if len(errors) > 6 and errors[-1] > 0.5 * errors[-6]:
            break
        hessian = beta * (prices.costs * spread) @ prices.ratios.T
        step = _direction(prices, x, excess, hessian)
        reach = _REACH * x.abs().clamp_min(0.25 * scale)
        step = step * float((reach / step.abs().clamp_min(1e-300)).min().clamp_max(1.0))
        moved = _search(look, prices, x, step, -float(excess @ step))
        moved = torch.minimum(torch.maximum(moved, first - far), first + far)
        if bool((moved == x).all()):
            break
        x = moved

    def excess_at(values: list[float]) -> list[float]:
        found: list[float] = look(torch.tensor(values, dtype=torch.float64))[0].tolist()
        return found

    # steps and plateaus lie across each other: one multiplier after the other
    floors = [0.0] * len(x)
    if prices.leader is not None:
        floors[prices.leader] = -math.inf
    lows = [max(f, v) for f, v in zip(floors, (first - far).tolist(), strict=True)]
    highs = (first + far).tolist()
    root = nested_root(excess_at, x.tolist(), lows, highs, 0.3 * tol)
    return torch.tensor(root, dtype=torch.float64)


def _direction(prices: Prices, x: Tensor, excess: Tensor, hessian: Tensor) -> Tensor:
    """Newton's step for the multipliers that may move."""
    moving = prices.open(x) | (excess > 0)
    unit = hessian.diagonal().clamp_min(1e-300).sqrt()
    scaled = hessian / (unit[:, None] * unit)
    step = torch.zeros_like(x)
    while bool(moving.any()):
        some = moving.nonzero()[:, 0]
        matrix = scaled[some][:, some]
        matrix = matrix + 1e-10 * torch.eye(len(some), dtype=torch.float64)
        solved = torch.linalg.solve(matrix, (excess / unit)[some]) / unit[some]
        step = torch.zeros_like(x)
        step[some] = solved.nan_to_num()
        stuck = moving & (step < 0) & (x <= 0)
        if prices.leader is not None:
            stuck[prices.leader] = False
        if not bool(stuck.any()):
            break
        moving &= ~stuck
    return step


def _search(
    look: Callable[[Tensor], tuple[Tensor, Tensor]],
    prices: Prices,
    x: Tensor,
    step: Tensor,
    first: float,
) -> Tensor:
    """A point along the step, at most a little beyond the least value there."""

    def derivative(share: float) -> tuple[Tensor, float]:
        there = prices.clipped(x + share * step)
        free = there == x + share * step
        return there, -float(look(there)[0][free] @ step[free])

    low, high, at_low = 0.0, 1.0, first
    if not first < 0.0:
        return x
    moved, at_high = derivative(1.0)
    if at_high <= _ENOUGH * abs(first):
        return moved
    for _ in range(40):
        share = low + (high - low) * at_low / (at_low - at_high)
        share = min(max(share, low + 0.05 * (high - low)), high - 0.05 * (high - low))
        moved, value = derivative(share)
        if abs(value) <= _ENOUGH * abs(first):
            break
        if value < 0:
            low, at_low = share, value
        else:
            high, at_high = share, value
    return moved
