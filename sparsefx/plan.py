"""What a transformed model was asked to do: policy, sites, budget, coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sparsefx.cost import CostTable
from sparsefx.policies.allocate import run
from sparsefx.policies.allocation import check_feasible
from sparsefx.policies.bounds import base_cost, bounds
from sparsefx.policies.counts import counts
from sparsefx.policies.erk import erk
from sparsefx.policies.worths import worths
from sparsefx.policy import Policy
from sparsefx.report import Coverage
from sparsefx.site import Site


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of a sparse model's state that training never changes.

    Attributes:
        policy: the settings.
        sites: the masked weights.
        dense: maskable weights that were not selected; they count as kept.
        cost: name of the budget's cost.
        limit: the target: cost allowed for ``sites`` and ``dense`` together.
        table: costs of the whole model.
        coverage: one row a parameter.
    """

    policy: Policy
    sites: tuple[Site, ...]
    dense: tuple[Site, ...]
    cost: str
    limit: float
    table: CostTable
    coverage: tuple[Coverage, ...]

    @property
    def total(self) -> float:
        """Cost of keeping every maskable weight."""
        return math.fsum(
            s.cost(self.cost) * s.numel for s in (*self.sites, *self.dense)
        )

    @property
    def reserved(self) -> float:
        """Cost of the maskable weights that no budget can drop."""
        unselected = [s.cost(self.cost) * s.numel for s in self.dense]
        return math.fsum(unselected) + base_cost(self.sites, self.cost)

    def allowed(self, progress: float) -> float:
        """The budget at a share of the way from the initial one to the target."""
        first = max(self.policy.initial_budget * self.total, self.limit)
        now = self.limit if progress >= 1 else first + (self.limit - first) * progress
        # blocks at padded edges cost more than the weights in them
        return now if now < self.total else max(now, self._everything)

    @property
    def _everything(self) -> float:
        pairs = zip(self.prices(), self.sites, strict=True)
        return self.reserved + math.fsum(price * s.units for price, s in pairs)

    def prices(self) -> list[float]:
        """Cost of one kept unit (a weight, or a group of them), one a site."""
        return [site.cost(self.cost) * site.unit_size for site in self.sites]

    def sharpness(self) -> list[float]:
        """What beta is multiplied by, one a site: more for means of many weights."""
        return [1.0 if s.base else math.sqrt(s.unit_size) for s in self.sites]

    def live(self, weights: Sequence[Tensor]) -> list[Site]:
        """The sites with the weights a model holds now."""
        return [replace(s, weight=w) for s, w in zip(self.sites, weights, strict=True)]

    def worths(
        self, weights: Sequence[Tensor], sums: Sequence[float] | None = None
    ) -> list[float]:
        """What a unit's value is worth, one a site; `sums` of values, if known."""
        sites = self.live(weights)
        found = worths(sites, self.policy.normalize, self.cost, sums)
        return [worth * s.unit_size for worth, s in zip(found, sites, strict=True)]

    def limits(self, budget: float, weights: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Least and greatest number of units to keep, one pair a site.

        Raises:
            BudgetError: the budget is below what must be kept costs.
        """
        check_feasible([*self.sites, *self.dense], budget, self.cost)
        if self.policy.allocation == "cost_budget":
            return [bounds(site) for site in self.sites]
        everything = [*self.live(weights), *self.dense]
        allocation = run(self.policy, everything, budget, self.cost)
        found = counts(allocation, everything, budget, self.cost)
        return list(found[: len(self.sites)])

    def starts(self, budget: float, weights: Sequence[Tensor]) -> list[int]:
        """Numbers of weights of random masks, one a site.

        Those of the allocation; where it leaves them to the weights, those of ERK.
        """
        limits = self.limits(budget, weights)
        if all(low == high for low, high in limits):
            return [low for low, _ in limits]
        everything = [*self.live(weights), *self.dense]
        found = counts(
            erk(everything, budget, self.cost), everything, budget, self.cost
        )
        return [low for low, _ in found[: len(self.sites)]]
