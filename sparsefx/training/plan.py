"""What a transformed model was asked to do: policy, sites, budgets, coverage."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from sparsefx.masking.site import Site
from sparsefx.policies.allocate import run
from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.erk import erk
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.magnitude_worths import worths
from sparsefx.policies.policy import Policy
from sparsefx.policies.policy_function import PolicyFunction, by_weights
from sparsefx.policies.round_to import multiples, stepped
from sparsefx.policies.unit_bounds import base_cost, bounds, unit_share
from sparsefx.policies.whole_units import counts
from sparsefx.reports.report_rows import Coverage
from sparsefx.settings.schedule import Phase
from sparsefx.solver.joint_budgets import Limits

_MARGIN = 1e-9  # budgets as near what must be kept are looked at closely


@dataclass(frozen=True, slots=True)
class Target:
    """One budget of a plan.

    Attributes:
        cost: name of the cost.
        limit: what sites and dense weights may cost together, fixed parts included.
        fixed: of that, what no mask can save; below 0 if weights that stay dense are
            not in the budget.
    """

    cost: str
    limit: float
    fixed: float = 0.0


@dataclass(frozen=True, slots=True)
class _Bill:
    """What a plan costs in one budget, see the methods of `Plan`; `least` without
    fixed parts, a little more than what layers must keep, and above 0.
    """

    total: float
    reserved: float
    prices: tuple[float, ...]
    least: float

    @classmethod
    def of(cls, plan: Plan, target: Target) -> _Bill:
        name, sites = target.cost, (*plan.sites, *plan.dense)
        dense = math.fsum(s.cost(name) * s.numel for s in plan.dense)
        must = [s.base + s.unit_size * bounds(s)[0] for s in sites]
        least = math.fsum(s.cost(name) * n for s, n in zip(sites, must, strict=True))
        return cls(
            total=target.fixed + math.fsum(s.cost(name) * s.numel for s in sites),
            reserved=target.fixed + dense + base_cost(plan.sites, name),
            prices=tuple(s.cost(name) * s.unit_size for s in plan.sites),
            least=least * (1.0 + _MARGIN) or sys.float_info.min,
        )


@dataclass(frozen=True)  # without slots: what every step asks is computed once
class Plan:
    """The part of a sparse model's state that training never changes.

    Attributes:
        policy: the settings.
        sites: the masked weights.
        dense: maskable weights that were not selected; they count as kept.
        targets: the budgets, the first of which reports speak of first.
        fixed: by cost name, what no mask can save.
        coverage: one row a parameter.
        original: maskable cost before a structural rewrite, by cost name, if any.
        function: the policy's function, as prepared for the model.
    """

    policy: Policy
    sites: tuple[Site, ...]
    dense: tuple[Site, ...]
    targets: tuple[Target, ...]
    fixed: Mapping[str, float]
    coverage: tuple[Coverage, ...]
    original: Mapping[str, float]
    function: PolicyFunction

    @property
    def several(self) -> bool:
        """Whether more than one budget holds."""
        return len(self.targets) > 1

    @cached_property
    def _bills(self) -> dict[str, _Bill]:
        return {target.cost: _Bill.of(self, target) for target in self.targets}

    def total(self, target: Target) -> float:
        """Cost of keeping every maskable weight."""
        return self._bills[target.cost].total

    def reserved(self, target: Target) -> float:
        """Cost of what no mask of this plan drops."""
        return self._bills[target.cost].reserved

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
        return list(self._bills[(target or self.targets[0]).cost].prices)

    def sharpness(self, phase: Phase) -> list[float]:
        """What beta is multiplied by, one a site: more for means of many weights.

        The final beta is, by the root of their number; the initial one is as given.
        """
        final = phase.beta_progress * self.policy.beta / phase.beta
        return [1.0 + (root - 1.0) * final for root in self._roots]

    @cached_property
    def _roots(self) -> list[float]:
        return [1.0 if s.base else math.sqrt(s.unit_size) for s in self.sites]

    def densities(self, counts: Sequence[int]) -> dict[str, float]:
        """Kept fractions of weights by name, where so many units are kept."""
        pairs = zip(self._shapes, counts, strict=True)
        return {
            name: min((base + count * unit) / size, 1.0)
            for (name, base, unit, size), count in pairs
        }

    @cached_property
    def _shapes(self) -> list[tuple[str, int, int, int]]:
        return [(s.name, s.base, s.unit_size, max(s.numel, 1)) for s in self.sites]

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
        known = sums is not None and not any(base for _, base, _, _ in self._shapes)
        sites = self.sites if known else self.live(weights)
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
        budgets, own = self.budgets(allowed), self._own
        for cost, budget in budgets.items():
            if not self._bills[cost].least <= budget < math.inf:
                check_feasible([*self.sites, *self.dense], budget, cost, budgets)
        limits = list(own)
        if not by_weights(self.function):
            everything = [*self.live(weights), *self.dense]
            allocation = run(self.policy, everything, budgets, self.function)
            limits = list(counts(allocation, everything, budgets)[: len(self.sites)])
        if all(site.round_to == 1 for site in self.sites):
            return limits
        fixed = self._settled(limits, allowed, weights)
        return multiples(self.sites, own, fixed, self.limits(allowed))

    @cached_property
    def _own(self) -> list[tuple[int, int]]:
        """The sites' bounds, whatever is allowed."""
        return [stepped(site, bounds(site)) for site in self.sites]

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
