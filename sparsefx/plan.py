"""What a transformed model was asked to do: policy, sites, budgets, coverage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from sparsefx.cost import CostTable
from sparsefx.limits import Limits
from sparsefx.multiples import multiples, stepped
from sparsefx.policies.allocate import run
from sparsefx.policies.bounds import base_cost, bounds, unit_share
from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.counts import counts
from sparsefx.policies.erk import erk
from sparsefx.policies.feasible import check_feasible
from sparsefx.policies.worths import worths
from sparsefx.policy import Policy
from sparsefx.report import Coverage
from sparsefx.site import Site


@dataclass(frozen=True, slots=True)
class Target:
    """One budget of a plan.

    Attributes:
        cost: name of the cost.
        limit: what sites and dense weights may cost together, fixed parts included.
        fixed: of that, what no mask can save.
    """

    cost: str
    limit: float
    fixed: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of a sparse model's state that training never changes.

    Attributes:
        policy: the settings.
        sites: the masked weights.
        dense: maskable weights that were not selected; they count as kept.
        targets: the budgets, the first of which reports speak of first.
        table: costs of the whole model.
        coverage: one row a parameter.
        original: maskable cost before a structural rewrite, by cost name, if any.
    """

    policy: Policy
    sites: tuple[Site, ...]
    dense: tuple[Site, ...]
    targets: tuple[Target, ...]
    table: CostTable
    coverage: tuple[Coverage, ...]
    original: Mapping[str, float] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether more than one budget holds."""
        return len(self.targets) > 1

    def total(self, target: Target) -> float:
        """Cost of keeping every maskable weight."""
        sites = (*self.sites, *self.dense)
        cost = math.fsum(s.cost(target.cost) * s.numel for s in sites)
        return target.fixed + cost

    def reserved(self, target: Target) -> float:
        """Cost of what no mask of this plan drops."""
        dense = math.fsum(s.cost(target.cost) * s.numel for s in self.dense)
        return target.fixed + dense + base_cost(self.sites, target.cost)

    def allowed(self, progress: float) -> tuple[float, ...]:
        """The budgets at a share of the way from the initial ones to the targets."""
        return tuple(self._allowed(target, progress) for target in self.targets)

    def _allowed(self, target: Target, progress: float) -> float:
        total, now = self.total(target), target.limit
        if progress < 1:
            first = max(self.policy.initial_budget * total, target.limit)
            now = first + (target.limit - first) * progress
        if now < total:
            return now
        # blocks at padded edges cost more than the weights in them
        pairs = zip(self.prices(target), self.sites, strict=True)
        whole = math.fsum(price * site.units for price, site in pairs)
        return max(now, self.reserved(target) + whole)

    def prices(self, target: Target | None = None) -> list[float]:
        """Cost of one kept unit (a weight, or a group of them), one a site.

        In a budget; the first one if none is given.
        """
        cost = (target or self.targets[0]).cost
        return [site.cost(cost) * site.unit_size for site in self.sites]

    def sharpness(self) -> list[float]:
        """What beta is multiplied by, one a site: more for means of many weights."""
        return [1.0 if s.base else math.sqrt(s.unit_size) for s in self.sites]

    def spent(self, counts: Sequence[float]) -> tuple[float, ...]:
        """What it costs in each budget to keep so many units of each site."""
        return tuple(
            self.reserved(target)
            + math.fsum(p * n for p, n in zip(self.prices(target), counts, strict=True))
            for target in self.targets
        )

    def limits(self, allowed: Sequence[float]) -> Limits:
        """The budgets over the sites, without what is reserved."""
        pairs = zip(allowed, self.targets, strict=True)
        return Limits(
            costs=tuple(tuple(self.prices(target)) for target in self.targets),
            amounts=tuple(max(a - self.reserved(t), 0.0) for a, t in pairs),
            names=tuple(target.cost for target in self.targets),
        )

    def budgets(self, allowed: Sequence[float]) -> dict[str, float]:
        """The budgets over sites and dense weights, without fixed parts, by name."""
        pairs = zip(self.targets, allowed, strict=True)
        return {target.cost: limit - target.fixed for target, limit in pairs}

    def live(self, weights: Sequence[Tensor]) -> list[Site]:
        """The sites with the weights a model holds now."""
        return [replace(s, weight=w) for s, w in zip(self.sites, weights, strict=True)]

    def worths(
        self,
        weights: Sequence[Tensor],
        sums: Sequence[float] | None = None,
        prices: Sequence[float] | None = None,
    ) -> list[float]:
        """What a unit's value is worth, one a site.

        Args:
            weights: of the sites.
            sums: of the units' values, if known.
            prices: what a kept unit costs; the first budget's if not given.
        """
        sites = self.live(weights)
        costs = {target.cost: target.limit for target in self.targets}
        paid = None
        if prices is not None:
            pairs = zip(prices, sites, strict=True)
            paid = [price / site.unit_size for price, site in pairs]
        found = worths(sites, self.policy.normalize, costs, sums, paid)
        return [worth * s.unit_size for worth, s in zip(found, sites, strict=True)]

    def bounds(
        self, allowed: Sequence[float], weights: Sequence[Tensor]
    ) -> list[tuple[int, int]]:
        """Least and greatest number of units to keep, one pair a site.

        Raises:
            BudgetError: a budget is below what must be kept costs.
        """
        budgets = self.budgets(allowed)
        for cost, budget in budgets.items():
            check_feasible([*self.sites, *self.dense], budget, cost, budgets)
        own = limits = [stepped(site, bounds(site)) for site in self.sites]
        if self.policy.allocation != "cost_budget":
            everything = [*self.live(weights), *self.dense]
            allocation = run(self.policy, everything, budgets)
            limits = list(counts(allocation, everything, budgets)[: len(self.sites)])
        if all(site.round_to == 1 for site in self.sites):
            return limits
        fixed = self._settled(limits, allowed, weights)
        return multiples(self.sites, own, fixed, self.limits(allowed))

    def starts(self, allowed: Sequence[float], weights: Sequence[Tensor]) -> list[int]:
        """Numbers of weights of random masks, one a site.

        Those of the allocation; where it leaves them to the weights, those of ERK.
        """
        limits = self.bounds(allowed, weights)
        if all(low == high for low, high in limits):
            return [low for low, _ in limits]
        everything = [*self.live(weights), *self.dense]
        budgets = self.budgets(allowed)
        cost, budget = next(iter(budgets.items()))
        plan = erk(everything, budget, cost, budgets)
        found = counts(plan, everything, budgets)
        return [low for low, _ in found[: len(self.sites)]]

    def settled(
        self, allowed: Sequence[float], weights: Sequence[Tensor]
    ) -> list[tuple[int, int]]:
        """Bounds that fix every count as the global policy would, in several budgets.

        For learners that watch one budget: with counts, all budgets are met.
        """
        fixed = self._settled(self.bounds(allowed, weights), allowed, weights)
        return [(count, count) for count in fixed]

    def _settled(
        self,
        limits: Sequence[tuple[int, int]],
        allowed: Sequence[float],
        weights: Sequence[Tensor],
    ) -> list[int]:
        everything = [
            replace(site, min_density=site.density(low), max_density=site.density(high))
            for site, (low, high) in zip(self.live(weights), limits, strict=True)
        ]
        budgets = self.budgets(allowed)
        cost, budget = next(iter(budgets.items()))
        plan = cost_budget(
            [*everything, *self.dense], budget, cost, self.policy.normalize, budgets
        )
        pairs = [(s, plan.densities[s.name]) for s in self.sites]
        return [round(unit_share(site, d) * site.units) for site, d in pairs]
