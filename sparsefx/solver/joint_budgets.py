"""Several budgets over one set of layers: what they cost, and which still matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsefx.errors import BudgetError
from sparsefx.solver.layer import Layer
from sparsefx.solver.projection import BUDGET_SLACK


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets that hold together, over layers in a fixed order.

    Attributes:
        costs: cost of a kept entry, one row a budget and one column a layer; >= 0.
        amounts: what each budget allows.
        names: of the budgets, for messages.

    Example:
        >>> limits = Limits(((1.0, 2.0), (1.0, 0.0)), (8.0, 3.0), ("macs", "params"))
        >>> limits.spent([2, 3])
        (8.0, 2.0)
    """

    costs: tuple[tuple[float, ...], ...]
    amounts: tuple[float, ...]
    names: tuple[str, ...]

    def spent(self, counts: Sequence[float]) -> tuple[float, ...]:
        """What these counts cost, by budget; each rounded once."""
        return tuple(
            math.fsum(c * n for c, n in zip(row, counts, strict=True))
            for row in self.costs
        )

    def fit(self, counts: Sequence[float], slack: float = BUDGET_SLACK) -> bool:
        """Whether no budget is exceeded, but for a relative slack."""
        pairs = zip(self.spent(counts), self.amounts, strict=True)
        return all(cost <= amount * (1.0 + slack) for cost, amount in pairs)

    def of(self, places: Sequence[int]) -> Limits:
        """The same budgets over some of the layers, which get all of the money."""
        rows = tuple(tuple(row[i] for i in places) for row in self.costs)
        return Limits(rows, self.amounts, self.names)

    def without(self, counts: Sequence[float]) -> Limits:
        """The same budgets, but for what these counts cost.

        Raises:
            BudgetError: they cost more than a budget.
        """
        spent = self.spent(counts)
        for amount, cost, name in zip(self.amounts, spent, self.names, strict=True):
            if not cost <= amount * (1.0 + BUDGET_SLACK):
                raise BudgetError(
                    f"budget {amount:g} {name} does not pay for what is kept whole, "
                    f"which costs {cost:g}; raise the budget, or keep less whole"
                )
        pairs = zip(self.amounts, spent, strict=True)
        rest = tuple(max(amount - cost, 0.0) for amount, cost in pairs)
        return Limits(self.costs, rest, self.names)

    def shares(self, budgets: Sequence[int]) -> list[list[float]]:
        """Costs as shares of what some of the budgets allow."""
        return [[cost / self.amounts[b] for cost in self.costs[b]] for b in budgets]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is left to decide; see `scope`.

    Attributes:
        live: numbers of the budgets that can run out.
        held: counts of the layers that are decided, by number.
        free: numbers of the other layers.
    """

    live: tuple[int, ...]
    held: dict[int, int]
    free: tuple[int, ...]


def scope(layers: Sequence[Layer], limits: Limits) -> Scope:
    """Sets apart what the bounds alone decide.

    A budget that pays for all upper bounds never runs out. One that pays for no more
    than the lower bounds holds the layers that cost it anything there. A layer that
    costs the budgets that are left nothing keeps its upper bound.

    Raises:
        BudgetError: a budget does not pay for the lower bounds.

    Example:
        >>> import torch
        >>> pair = [Layer(torch.ones(4), 1.0, 1.0, 1, 4) for _ in range(2)]
        >>> found = scope(pair, Limits(((1.0, 0.0), (1.0, 1.0)), (1.0, 9.0), "ab"))
        >>> found.live, found.held, found.free
        ((), {0: 1, 1: 4}, ())
    """
    held = {i: x.lower for i, x in enumerate(layers) if x.lower == x.upper}
    live = set(range(len(limits.amounts)))
    while True:
        low = [held.get(i, x.lower) for i, x in enumerate(layers)]
        high = [held.get(i, x.upper) for i, x in enumerate(layers)]
        least, most = limits.spent(low), limits.spent(high)
        before = (len(live), len(held))
        for b in sorted(live):
            allowed = limits.amounts[b]
            if least[b] > allowed * (1.0 + BUDGET_SLACK):
                raise BudgetError(
                    f"budget {allowed:g} {limits.names[b]} is outside the feasible "
                    f"range {least[b]:g} to {most[b]:g}: the lower bounds alone cost "
                    f"{least[b]:g}; raise the budget, or lower those bounds"
                )
            if most[b] * (1.0 - BUDGET_SLACK) <= allowed:
                live.discard(b)
            elif least[b] * (1.0 + BUDGET_SLACK) >= allowed:
                live.discard(b)
                for i, cost in enumerate(limits.costs[b]):
                    if cost > 0.0:
                        held.setdefault(i, layers[i].lower)
                break  # the others have less to pay for now
        if before == (len(live), len(held)):
            break
    for i, layer in enumerate(layers):
        if i not in held and not any(limits.costs[b][i] for b in live):
            held[i] = layer.upper
    free = tuple(i for i in range(len(layers)) if i not in held)
    return Scope(tuple(sorted(live)), held, free)


def shares_of(limits: Limits, weights: Sequence[float]) -> list[float]:
    """The layers' prices: budgets weighted, in the unit of what they are made of.

    With one weight this is that budget's cost itself; where a layer costs the weighted
    budgets nothing, the most that it costs any counts instead.

    Args:
        limits: the budgets.
        weights: of the budgets; at least one is above 0.
    """
    total = math.fsum(weights)
    used = [b for b, weight in enumerate(weights) if weight > 0]
    only = limits.costs[used[0]] if len(used) == 1 else None
    # a budget of nothing has no unit, and only layers free of it are left to price
    rich = {b: limits.amounts[b] for b in used if limits.amounts[b] > 0}
    theta = {b: weights[b] / total for b in rich}
    unit = math.exp(math.fsum(theta[b] * math.log(k) for b, k in rich.items()))
    found = []
    for i, costs in enumerate(zip(*limits.costs, strict=True)):
        if only is not None and only[i] > 0:
            found.append(only[i])
            continue
        share = math.fsum(theta[b] * costs[b] / k for b, k in rich.items())
        if share <= 0:
            pairs = zip(costs, limits.amounts, strict=True)
            share = max((cost / k for cost, k in pairs if k > 0), default=0.0)
        found.append(share * unit or 1.0)
    return found
