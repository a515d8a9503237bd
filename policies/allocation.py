"""How much of each site may be kept: what a policy answers, and policies share."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sparsefx.errors import BudgetError, PolicyError
from sparsefx.policies.bounds import bounds, label
from sparsefx.site import Site


class AllocationFunction(Protocol):
    """A built-in policy: `(sites, budget, cost)` to an `Allocation`.

    A user's own function may leave out ``cost``, and may return a mapping of
    densities by site name.
    """

    def __call__(
        self, sites: Sequence[Site], budget: float, cost: str = "macs"
    ) -> Allocation:
        """Distributes ``budget``, an absolute cost, over ``sites``."""


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
    """

    lower: Mapping[str, float]
    upper: Mapping[str, float]
    densities: Mapping[str, float]
    cost: float
    budget: float
    dense: float

    def __str__(self) -> str:
        width = max((len(name) for name in self.densities), default=4)
        rows = [f"{'site':<{width}}  density    lower    upper"]
        rows += [
            f"{name:<{width}}  {density:7.4f}  {self.lower[name]:7.4f}  "
            f"{self.upper[name]:7.4f}"
            for name, density in self.densities.items()
        ]
        rows.append(
            f"cost {self.cost:.6g} of {self.budget:.6g} allowed "
            f"({self.cost / self.dense:.4%} of dense {self.dense:.6g})"
        )
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
            f"no selected layer costs any {cost} ({_some(sites)}), so a budget in "
            f"{cost} has no effect; give the budget in another cost, for example params"
        )
    return found


def unit_prices(sites: Sequence[Site], cost: str) -> list[float]:
    """What one kept unit (a weight, or a group of them) of each site costs."""
    pairs = zip(prices(sites, cost), sites, strict=True)
    return [price * site.unit_size for price, site in pairs]


def check_feasible(sites: Sequence[Site], budget: float, cost: str) -> None:
    """Refuses a budget that no masks within the sites' bounds can meet.

    Args:
        sites: the maskable weights, with their bounds.
        budget: cost allowed for these sites.
        cost: name of the cost.

    Raises:
        BudgetError: ``budget`` is not above 0, or below the cost of the lower
            bounds; the message gives the feasible range as fractions of dense and
            the layers to blame.

    Example:
        >>> import sympy
        >>> one = {"params": sympy.Integer(1)}
        >>> site = Site("fc.weight", "fc", "linear", (8, 4), one, min_density=0.5)
        >>> check_feasible([site], 8, "params")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        sparsefx.errors.BudgetError: budget 0.25 is below the 0.5 ...
    """
    per_weight = prices(sites, cost)
    limits = [bounds(site) for site in sites]
    rows = list(zip(sites, per_weight, limits, strict=True))
    least = [p * (s.base + s.unit_size * low) for s, p, (low, _) in rows]
    most = sum(
        p * min(s.base + s.unit_size * high, s.numel) for s, p, (_, high) in rows
    )
    dense = sum(p * s.numel for p, s in zip(per_weight, sites, strict=True))
    if not budget > 0 or math.isinf(budget):
        raise BudgetError(
            f"budget {budget:g} {cost} is not allowed; give a finite cost above 0, at "
            f"least {sum(least):.6g} ({sum(least) / dense:.4g} of dense)"
        )
    if budget < sum(least) * (1 - 1e-12):
        order = sorted(range(len(sites)), key=lambda i: -least[i])
        blocking = [sites[i] for i in order if least[i] > 0]
        given, needed = budget / dense, sum(least) / dense
        digits = 4 if f"{given:.4g}" != f"{needed:.4g}" else 12
        raise BudgetError(
            f"budget {given:.{digits}g} is below the {needed:.{digits}g} that layers "
            f"kept dense already cost ({_some(blocking)}); raise budget to between "
            f"{needed:.{digits}g} and {most / dense:.4g} of the dense {cost}, or lower "
            "their min_density / shorten exclude"
        )


def scaled(
    sites: Sequence[Site], budget: float, cost: str, ratios: Sequence[float]
) -> Allocation:
    """Densities proportional to ``ratios`` within the sites' bounds.

    Finds the scale ``t`` with ``density_l = clip(t * ratio_l, lower_l, upper_l)`` and
    ``sum_l price_l * numel_l * density_l = budget``. The left side is piecewise
    linear and never falls in ``t``: the piece is found by bisection over its corners
    and solved exactly. Sites that cost nothing keep their upper bound; a budget above
    the greatest possible cost gives every site its upper bound.

    Args:
        sites: the maskable weights.
        budget: cost allowed for these sites.
        cost: name of the cost.
        ratios: relative density of each site, above 0.

    Raises:
        BudgetError: the budget cannot be met.
    """
    check_feasible(sites, budget, cost)
    per_weight = prices(sites, cost)
    weights = [p * s.numel for p, s in zip(per_weight, sites, strict=True)]
    limits = [
        (s.density(low), s.density(high))
        for s, (low, high) in ((s, bounds(s)) for s in sites)
    ]

    def clipped(scale: float) -> list[float]:
        return [
            min(max(scale * ratio, low), high) if price else high
            for ratio, (low, high), price in zip(
                ratios, limits, per_weight, strict=True
            )
        ]

    def total(scale: float) -> float:
        return math.fsum(w * d for w, d in zip(weights, clipped(scale), strict=True))

    corners = sorted(
        {bound / r for r, pair in zip(ratios, limits, strict=True) for bound in pair}
    )
    if total(corners[-1]) <= budget:
        return planned(clipped(corners[-1]), sites, budget, cost)
    right = bisect_left(corners, budget, key=total)
    scale = corners[right]
    if right > 0:
        at_left, at_right = total(corners[right - 1]), total(corners[right])
        share = (budget - at_left) / (at_right - at_left)
        scale = corners[right - 1] + share * (corners[right] - corners[right - 1])
    return planned(clipped(scale), sites, budget, cost)


def planned(
    densities: Sequence[float] | Mapping[str, float],
    sites: Sequence[Site],
    budget: float,
    cost: str,
) -> Allocation:
    """The allocation that fixes the density of every site.

    Args:
        densities: kept fraction of each site, in [0, 1], in order or by site name.
        sites: the maskable weights.
        budget: cost allowed for these sites.
        cost: name of the cost.

    Raises:
        PolicyError: a site has no density, or one outside [0, 1].
    """
    if isinstance(densities, Mapping):
        missing = [site for site in sites if site.name not in densities]
        if missing:
            raise PolicyError(
                f"the policy gives no density for {_some(missing)}; give one, in "
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
    per_weight = prices(sites, cost)
    return Allocation(
        lower=plan,
        upper=plan,
        densities=plan,
        cost=math.fsum(
            p * s.numel * plan[s.name] for p, s in zip(per_weight, sites, strict=True)
        ),
        budget=budget,
        dense=math.fsum(p * s.numel for p, s in zip(per_weight, sites, strict=True)),
    )


def _some(sites: Sequence[Site]) -> str:
    names = ", ".join(label(site) for site in sites[:5])
    return names + (f" and {len(sites) - 5} more" if len(sites) > 5 else "")
