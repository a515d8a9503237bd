"""Which units stay: S2ViTE's drop and growth, magnitude, or Spartan's soft top-k.

Units are to a group what entries are to a weight, so the learners of weights decide
for them too: a group is a site, its prices are those of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.errors import BudgetError
from sparsefx.learners.choose_entries import affordable, largest, randomly
from sparsefx.learners.learner import Decision, Learner, Situation, cost_of
from sparsefx.learners.regrow import by_gradient
from sparsefx.solver.projection import BUDGET_SLACK, project


def even_counts(situation: Situation) -> list[int]:
    r"""The same density for every group, as large as the budget allows, at least one.

    The largest :math:`d` with
    :math:`\sum_g p_g \max(l_g, \lfloor d n_g \rfloor) \le k` in every budget.

    Raises:
        BudgetError: the least counts cost more than the budget.

    Example:
        >>> s = Situation(names=["a", "b"], values=[torch.ones(4), torch.ones(10)],
        ...     prices=[5.0, 1.0], worths=[1.0, 1.0], limits=[(1, 4), (1, 10)],
        ...     budget=15.0)
        >>> even_counts(s)
        [2, 5]
    """
    sizes = [value.numel() for value in situation.values]
    shares = sorted({k / n for n in sizes for k in range(n + 1)})

    def counts(share: float) -> list[int]:
        pairs = zip(sizes, situation.limits, strict=True)
        return [
            min(max(math.floor(share * n + 1e-9), low), high)
            for n, (low, high) in pairs
        ]

    low, high = 0, len(shares) - 1
    if not situation.fits(counts(0.0)):
        raise BudgetError(
            f"budget {situation.budget:.6g} is below the "
            f"{situation.cost(counts(0.0)):.6g} that the least number of units costs; "
            "raise the budget, or lower min_density"
        )
    while low < high:
        middle = (low + high + 1) // 2
        fits = situation.fits(counts(shares[middle]))
        low, high = (middle, high) if fits else (low, middle - 1)
    return counts(shares[low])


def by_taylor(situation: Situation) -> Decision:
    """Random units with even counts; then the least give way to where gradients ask.

    Example:
        >>> s = Situation(names=["heads"], values=[torch.tensor([0.15, 0.25, 0.10])],
        ...     prices=[1.0], worths=[1.0], limits=[(1, 3)], budget=2.0,
        ...     masks=[torch.tensor([True, False, True])], drop_fraction=0.5,
        ...     scores=[torch.tensor([0.60, 0.65, 0.35])])
        >>> by_taylor(s).masks[0].tolist()
        [True, True, False]
    """
    if situation.masks is None:
        sizes = [value.numel() for value in situation.values]
        return Decision(randomly(sizes, even_counts(situation), situation.seed))
    return by_gradient(situation)


def by_magnitude(situation: Situation) -> Decision:
    """The units worth most per cost, over all groups."""
    return Decision(_bought(situation))


def by_soft_topk(situation: Situation) -> Decision:
    """The same units, with soft gates on the way."""
    masks = _bought(situation)
    return Decision(masks, gates=_soft(situation, masks))


def _bought(situation: Situation) -> list[Tensor]:
    """A prefix in one budget; in several what fits all, in the same order."""
    if not situation.further:
        return filled(situation, affordable(situation))
    rows = zip(situation.values, situation.limits, situation.names, strict=True)
    least = [largest(value, low, name) for value, (low, _), name in rows]
    return filled(situation, least)


def filled(situation: Situation, masks: Sequence[Tensor]) -> list[Tensor]:
    """Adds the units worth most per cost that still fit, where a dear one did not.

    A head may cost as much as a hundred neurons: the prefix that ends at it can leave
    a good part of the budget.

    Example:
        >>> s = Situation(names=["a", "b"], values=[torch.ones(2), torch.ones(3)],
        ...     prices=[5.0, 1.0], worths=[5.0, 1.0], limits=[(1, 2), (1, 3)],
        ...     budget=8.0)
        >>> masks = [torch.tensor([True, False]), torch.tensor([True, False, False])]
        >>> filled(s, masks)[1].tolist()
        [True, True, True]
    """
    found = [mask.clone() for mask in masks]
    counts = [int(mask.sum()) for mask in masks]
    rows = situation.budgets
    left = [
        amount * (1 + BUDGET_SLACK) - cost_of(prices, counts) for prices, amount in rows
    ]

    def pays(group: int) -> bool:
        return all(p[group] <= rest for (p, _), rest in zip(rows, left, strict=True))

    open_: list[tuple[float, int, int]] = []
    for group, price in enumerate(situation.prices):
        if price > 0 and pays(group):
            value = situation.values[group].abs() * situation.worths[group] / price
            for unit in (~masks[group]).nonzero().flatten().tolist():
                open_.append((-float(value[unit]), group, unit))
    for _, group, unit in sorted(open_):
        if pays(group) and counts[group] < situation.limits[group][1]:
            found[group][unit] = True
            counts[group] += 1
            left = [rest - p[group] for (p, _), rest in zip(rows, left, strict=True)]
    return found


def _soft(situation: Situation, masks: Sequence[Tensor]) -> list[Tensor]:
    """Soft masks of the kept units, under the same budgets: what the tightest gives."""
    worths = zip(situation.values, situation.worths, strict=True)
    # worths are per unit of cost, so that beta has no unit
    values = torch.cat([value.double().abs() * worth for value, worth in worths])
    sizes, beta = [len(mask) for mask in masks], situation.beta
    gates = torch.ones_like(values)
    for prices, budget in situation.budgets:
        pairs = zip(sizes, prices, strict=True)
        costs = torch.cat([torch.full((n,), p, dtype=torch.float64) for n, p in pairs])
        gates = torch.minimum(gates, project(values, costs, budget, beta)[0])
    return [
        torch.where(hard, soft.float(), 0.0)
        for hard, soft in zip(masks, torch.split(gates, sizes), strict=True)
    ]


TAYLOR = Learner(
    name="units_taylor",
    decide=by_taylor,
    part="units",
    drawn=True,
    steady=True,
    scores=True,
    reads=frozenset({"drop_end", "drop_fraction", "drop_fraction_final", "drop_ramp"}),
)
MAGNITUDE = Learner(name="units_magnitude", decide=by_magnitude, part="units")
SOFT_TOPK = Learner(
    name="units_soft_topk",
    decide=by_soft_topk,
    part="units",
    reads=frozenset({"beta", "beta_initial", "beta_ramp"}),
)
