"""The soft top-k: a budget, one multiplier, exact gradients; and the hard top-k."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsefx.errors import BudgetError, MaskError

MAX_SWEEPS = 200
BUDGET_SLACK = 1e-12  # relative: sums of prices are rounded, whole counts are not
_PAD = 1e-3  # equal values have their solution at an end of the bracket
_RTOL = 1e-13  # of `project`, which works in double


def logit(fraction: float, rest: float) -> float:
    """``log(fraction / rest)``; `rest` apart, because ``1 - fraction`` rounds."""
    return math.log(fraction) - math.log(rest)


def solve_multiplier(
    measure: Callable[[float], tuple[float, float]],
    target: float,
    capacity: float,
    *,
    start: float,
    low: float,
    high: float,
    rtol: float,
) -> tuple[float, int]:
    """Finds the multiplier mu at which the soft cost ``B(mu)`` is `target`.

    ``B = sum c_i m_i`` with ``m_i = sigmoid(z_i + mu)`` (some masks may be held
    constant), ``S = dB/dmu = sum c_i m_i (1 - m_i)`` and ``C = sum c_i``. Newton's
    method on ``g(mu) = logit(B/C)`` inside a shrinking bracket. With the cost-weighted
    mean E, ``S/C = E[m] - E[m^2] <= E[m] - E[m]^2``, hence ``g' <= 1``, and a step of
    ``logit(target/C) - g`` never passes the solution: it moves the bracket.

    Args:
        measure: maps mu to ``(B, S)``; one sweep over the data.
        target: the cost to reach, in ``(0, capacity)``.
        capacity: ``C``, the cost of keeping everything.
        start: first guess; brought into the bracket.
        low: a value not above the solution, finite.
        high: a value not below the solution, finite.
        rtol: stop when ``|B - target| <= rtol * target``.

    Returns:
        The best mu seen, which is always one that was measured, and the number of
        sweeps. Where rounding forbids `rtol`, the nearest mu that exists.

    Example:
        >>> def one_entry(mu):
        ...     m = 1 / (1 + math.exp(-mu))
        ...     return m, m * (1 - m)
        >>> mu, _ = solve_multiplier(
        ...     one_entry, 0.5, 1.0, start=3.0, low=-9.0, high=9.0, rtol=1e-9
        ... )
        >>> abs(mu) < 1e-8
        True
    """
    search = search_multiplier(
        target, capacity, start=start, low=low, high=high, rtol=rtol
    )
    mu = next(search)
    while True:
        try:
            mu = search.send(measure(mu))
        except StopIteration as end:
            found: tuple[float, int] = end.value
            return found


def search_multiplier(
    target: float,
    capacity: float,
    *,
    start: float,
    low: float,
    high: float,
    rtol: float,
) -> Generator[float, tuple[float, float], tuple[float, int]]:
    """`solve_multiplier` that asks: it yields each mu and is sent ``(B, S)`` there.

    So several searches share their sweeps.

    Example:
        >>> search = search_multiplier(
        ...     0.5, 1.0, start=0.0, low=-9.0, high=9.0, rtol=1e-9
        ... )
        >>> next(search)
        0.0
        >>> try:
        ...     search.send((0.5, 0.25))
        ... except StopIteration as end:
        ...     print(end.value)
        (0.0, 1)
    """
    goal = logit(target, capacity - target)
    low, high = low - _PAD, high + _PAD
    mu = best = min(max(start, low), high)
    least, previous, sweeps = math.inf, math.inf, 0
    while sweeps < MAX_SWEEPS:
        sweeps += 1
        cost, spread = yield mu
        gap, rest = abs(cost - target), capacity - cost
        if gap < least:
            least, best = gap, mu
        if gap <= rtol * target:
            break
        # At 0 and C the cost has underflowed: only its side of the target is known.
        step = goal - logit(cost, rest) if cost > 0.0 and rest > 0.0 else math.inf
        safe = mu + step if math.isfinite(step) else mu
        guess = math.nan
        if spread > 0.0 and math.isfinite(step):
            guess = mu + step * (cost / capacity) * (rest / spread)
        if cost < target:
            low, guess = max(low, safe), max(guess, safe)
        else:
            high, guess = min(high, safe), min(guess, safe)
        if abs(step) <= 0.5 * previous and low <= guess <= high:
            previous = abs(step)
        else:  # Newton left the bracket or crawls (a gap, a kink): halve
            guess, previous = 0.5 * (low + high), math.inf
        if guess == mu:
            break
        mu = guess
    return best, sweeps


class _SoftTopK(torch.autograd.Function):
    """`project` on double tensors of one shape; its docstring has the mathematics."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, c: Tensor, k: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        u = v / c
        z = u * beta
        capacity, target = float(c.sum()), float(k)
        if target <= 0.0 or target >= capacity * (1.0 - BUDGET_SLACK):
            empty = target <= 0.0 and v.numel() > 0
            mask = torch.zeros_like(v) if empty else torch.ones_like(v)
            mu = v.new_tensor(-math.inf if empty else math.inf)
        else:
            bottom, top = (float(end) for end in z.aminmax())
            even = logit(target, capacity - target)

            def measure(mu: float) -> tuple[float, float]:
                m = torch.sigmoid(z + mu)
                kept = m * c
                return float(kept.sum()), float(kept.mul_(1.0 - m).sum())

            solution, _ = solve_multiplier(
                measure,
                target,
                capacity,
                start=even - float((z * c).sum()) / capacity,
                low=even - top,
                high=even - bottom,
                rtol=_RTOL,
            )
            mask = torch.sigmoid(z + solution)
            mu = v.new_tensor(solution)
        ctx.save_for_backward(u, c, beta, mask)
        return mask, mu

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_mask: Tensor, grad_mu: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        u, c, beta, m = ctx.saved_tensors
        s = m * (1.0 - m)
        spread = (c * s).sum()
        # A budget that keeps all or nothing leaves no freedom: every gradient is 0.
        shared = ((grad_mask * s).sum() + grad_mu) / spread if spread > 0 else spread
        grad_v = beta * s * (grad_mask / c - shared)
        grad_c = -u * grad_v - shared * m
        return grad_v, grad_c, shared, (s * u * (grad_mask - shared * c)).sum()


def project(
    values: Tensor,
    costs: Tensor | float,
    budget: Tensor | float,
    beta: Tensor | float,
) -> tuple[Tensor, Tensor]:
    r"""Projects values onto a budget: the entropic soft top-k.

    Solves, with ``H(m) = -m log m - (1-m) log(1-m)``,

        maximise   sum_i v_i m_i + (1/beta) sum_i c_i H(m_i)
        subject to sum_i c_i m_i = k,   0 <= m_i <= 1.

    The solution is ``m_i = sigmoid(beta v_i / c_i + mu)`` with one scalar mu. Its
    gradients are exact: with ``s = m(1-m)``, ``S = sum c s``, upstream ``a = dL/dm``,
    ``h = dL/dmu`` and ``A = (sum a s + h) / S``,

        dL/dv = beta s (a/c - A)                        dL/dk = A
        dL/dc = -beta (v/c) s (a/c - A) - A m           dL/dbeta = sum s (v/c) (a - A c)

    Small beta gives even masks, ``beta -> inf`` the fractional knapsack. It works in
    double precision and returns the mask in the dtype of `values`.

    Args:
        values: worth of keeping an entry; any shape, finite.
        costs: cost of keeping an entry, > 0; broadcast to the shape of `values`.
        budget: the cost k to be met, >= 0, in the unit of `costs`. 0 gives zeros, the
            total cost or more gives exact ones, both with zero gradients.
        beta: inverse temperature, > 0, in the unit of cost over value.

    Returns:
        The mask, in the shape and dtype of `values`, and mu, a double scalar; both are
        differentiable (once) in all four arguments.

    Raises:
        MaskError: values or costs are not finite, costs or beta not positive, or the
            costs do not broadcast to the values.
        BudgetError: the budget is negative or not a number.

    Example:
        >>> mask, mu = project(torch.tensor([3.0, 1.0, 2.0]), 1.0, 2.0, beta=5.0)
        >>> mask.sum().item()
        2.0
        >>> [round(entry, 3) for entry in mask.tolist()]
        [0.999, 0.076, 0.924]
    """
    v, c, k = _operands(values, costs, budget)
    b = torch.as_tensor(beta, dtype=torch.float64, device=values.device)
    if not (b.numel() == 1 and 0.0 < b.item() < math.inf):
        raise MaskError(f"beta is {beta}; it must be one finite number above 0")
    mask, mu = _SoftTopK.apply(v, c, k, b.reshape(()))  # type: ignore[no-untyped-call, unused-ignore]
    return mask.to(values.dtype), mu


@torch.no_grad()
def hard_topk(values: Tensor, costs: Tensor | float, budget: Tensor | float) -> Tensor:
    """Keeps the best entries the budget can buy: the greedy knapsack.

    Entries are bought by unit value ``v/c``, the highest first, ties by flat index,
    until one does not fit: the largest prefix whose cost is at most the budget.

    Args:
        values: worth of keeping an entry; any shape, finite.
        costs: cost of keeping an entry, > 0; broadcast to the shape of `values`.
        budget: the cost that may be spent, >= 0, in the unit of `costs`.

    Returns:
        A bool mask in the shape of `values`.

    Raises:
        MaskError: values or costs are not finite, costs not positive, or the costs do
            not broadcast to the values.
        BudgetError: the budget is negative or not a number.

    Example:
        >>> hard_topk(torch.tensor([3.0, 1.0, 2.0, 2.0]), 1.0, 2.5).tolist()
        [True, False, True, False]
    """
    v, c, k = (x.reshape(-1) for x in _operands(values, costs, budget))
    order = (v / c).argsort(descending=True, stable=True)
    fits = c[order].cumsum(0) <= k * (1.0 + BUDGET_SLACK)
    mask = torch.zeros_like(fits)
    mask[order] = fits
    return mask.reshape(values.shape)


def _operands(
    values: Tensor, costs: Tensor | float, budget: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, costs and budget in double, in one shape (scalar budget), checked."""
    device = values.device
    c = torch.as_tensor(costs, dtype=torch.float64, device=device)
    k = torch.as_tensor(budget, dtype=torch.float64, device=device)
    try:
        c = c.expand(values.shape)
    except RuntimeError:
        raise MaskError(
            f"costs of shape {tuple(c.shape)} do not broadcast to values of shape "
            f"{tuple(values.shape)}; give one cost, or one for each value"
        ) from None
    if not bool(values.isfinite().all()):
        raise MaskError("values have NaN or infinite entries; they must be finite")
    if not bool(((c > 0) & c.isfinite()).all()):
        raise MaskError("costs must be finite and above 0; some are not")
    if not (k.numel() == 1 and k.item() >= 0.0):
        raise BudgetError(
            f"budget is {budget}; it must be one number of at least 0, in the unit of "
            "the costs"
        )
    return values.to(torch.float64), c, k.reshape(())
