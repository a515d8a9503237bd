"""What a transformed model was asked to do: policy, sites, budget, coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sparsefx.cost import CostTable
from sparsefx.policies.allocate import run
from sparsefx.policies.allocation import bounds, check_feasible
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
        """Cost of the maskable weights that were not selected."""
        return math.fsum(s.cost(self.cost) * s.numel for s in self.dense)

    def allowed(self, progress: float) -> float:
        """The budget at a share of the way from the initial one to the target."""
        first = max(self.policy.initial_budget * self.total, self.limit)
        return self.limit if progress >= 1 else first + (self.limit - first) * progress

    def prices(self) -> list[float]:
        """Cost of one kept weight, one a site."""
        return [site.cost(self.cost) for site in self.sites]

    def live(self, weights: Sequence[Tensor]) -> list[Site]:
        """The sites with the weights a model holds now."""
        return [replace(s, weight=w) for s, w in zip(self.sites, weights, strict=True)]

    def worths(
        self, weights: Sequence[Tensor], sums: Sequence[float] | None = None
    ) -> list[float]:
        """What a unit of magnitude is worth, one a site; `sums` of them, if known."""
        sites = self.live(weights) if sums is None else self.sites
        return worths(sites, self.policy.normalize, self.cost, sums)

    def limits(self, budget: float, weights: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Least and greatest number of weights to keep, one pair a site.

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
