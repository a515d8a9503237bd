"""How much of each site may be kept: what a policy answers, and policies share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.unit_bounds import label


@dataclass(frozen=True, slots=True)
class Allocation:
    """How much of each site may be kept.

    Attributes:
        lower: least density by site name, in [0, 1].
        upper: greatest density by site name, in [0, 1].
        densities: the plan. Equal to both bounds where the policy decides the
            density of each site; what the present weights give where it leaves
            that to the weights.
        cost: cost of the plan, in the unit of the budget.
        budget: the cost allowed.
        dense: the cost of keeping everything.
        others: of further budgets, ``(cost, budget, dense)`` by name.

    Example:
        >>> third = {"fc": 0.3}
        >>> print(Allocation(third, third, third, cost=3.0, budget=3.2, dense=10.0))
        site  density    lower    upper
        fc   0.3000   0.3000   0.3000
        cost 3 of 3.2 allowed (30.0000% of dense 10)
    """

    lower: Mapping[str, float]
    upper: Mapping[str, float]
    densities: Mapping[str, float]
    cost: float
    budget: float
    dense: float
    others: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        width = max((len(name) for name in self.densities), default=4)
        rows = [f"{'site':<{width}}  density    lower    upper"]
        rows += [
            f"{name:<{width}}  {density:7.4f}  {self.lower[name]:7.4f}  "
            f"{self.upper[name]:7.4f}"
            for name, density in self.densities.items()
        ]
        first = {"cost": (self.cost, self.budget, self.dense)}
        rows += [
            f"{name} {cost:.6g} of {budget:.6g} allowed "
            f"({cost / dense:.4%} of dense {dense:.6g})"
            for name, (cost, budget, dense) in {**first, **self.others}.items()
        ]
        return "\n".join(rows)


def prices(sites: Sequence[Site], cost: str) -> list[float]:
    """What one kept weight of each site costs.

    Args:
        sites: the maskable weights.
        cost: name of the cost, for example ``"macs"``.

    Raises:
        PolicyError: no site, or a site has no such cost; the message lists its costs.
        BudgetError: no site costs anything, so that a budget has no effect.
    """
    if not sites:
        raise PolicyError("no site to allocate to; select at least one weight")
    for site in sites:
        if cost not in site.costs:
            raise PolicyError(
                f"cost {cost!r} is not known for {label(site)}; allowed: "
                f"{', '.join(sorted(site.costs))}"
            )
    found = [site.cost(cost) for site in sites]
    if not any(found):
        raise BudgetError(
            f"no selected layer costs any {cost} ({some(sites)}), so a budget in "
            f"{cost} has no effect; give the budget in another cost, for example params"
        )
    return found


def unit_prices(sites: Sequence[Site], cost: str) -> list[float]:
    """What one kept unit (a weight, or a group of them) of each site costs."""
    pairs = zip(prices(sites, cost), sites, strict=True)
    return [price * site.unit_size for price, site in pairs]


def planned(
    densities: Sequence[float] | Mapping[str, float],
    sites: Sequence[Site],
    budget: float,
    cost: str,
    budgets: Mapping[str, float] | None = None,
) -> Allocation:
    """The allocation that fixes the density of every site.

    Args:
        densities: kept fraction of each site, in [0, 1], in order or by site name.
        sites: the maskable weights.
        budget: cost allowed for these sites.
        cost: name of the cost.
        budgets: all budgets by name, where there are several.

    Raises:
        PolicyError: a site has no density, or one outside [0, 1].
    """
    if isinstance(densities, Mapping):
        missing = [site for site in sites if site.name not in densities]
        if missing:
            raise PolicyError(
                f"the policy gives no density for {some(missing)}; give one, in "
                "[0, 1], for every site, by site.name"
            )
        densities = [densities[site.name] for site in sites]
    plan = {s.name: float(d) for s, d in zip(sites, densities, strict=True)}
    for site in sites:
        if not 0 <= plan[site.name] <= 1:
            raise PolicyError(
                f"density {plan[site.name]:g} of {label(site)} is not allowed; give a "
                "kept fraction in [0, 1]"
            )
    kept = [plan[site.name] * site.numel for site in sites]
    return Allocation(plan, plan, plan, *spending(sites, kept, budget, cost, budgets))


def spending(
    sites: Sequence[Site],
    kept: Sequence[float],
    budget: float,
    cost: str,
    budgets: Mapping[str, float] | None = None,
) -> tuple[float, float, float, dict[str, tuple[float, float, float]]]:
    """``cost, budget, dense, others`` of an `Allocation` that keeps so many weights."""
    found = {}
    for name, amount in {cost: budget, **(budgets or {})}.items():
        row = prices(sites, name)
        spent = math.fsum(p * n for p, n in zip(row, kept, strict=True))
        dense = math.fsum(p * s.numel for p, s in zip(row, sites, strict=True))
        found[name] = (spent, amount, dense)
    return *found.pop(cost), found


def some(sites: Sequence[Site]) -> str:
    """The first layers' names, for messages."""
    names = ", ".join(label(site) for site in sites[:5])
    return names + (f" and {len(sites) - 5} more" if len(sites) > 5 else "")
