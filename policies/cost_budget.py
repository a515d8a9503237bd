"""The global policy: the weights themselves decide, under one linear cost budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsefx.masking.masked_groups import entries
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, spending, unit_prices
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.magnitude_worths import weight_of, worths
from sparsefx.policies.unit_bounds import base_cost, bounds, label
from sparsefx.solver.hard_masks_joint import solve_hard_joint
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.layer import Layer


@dataclass(frozen=True, slots=True)
class CostBudget:
    """The policy function; it has no settings of its own."""

    by_weights: ClassVar[bool] = True
    may_empty: ClassVar[bool] = True

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "macs",
        normalize: str = "layer",
        budgets: Mapping[str, float] | None = None,
    ) -> Allocation:
        """Keeps the weights worth most per unit of cost, wherever they are.

        Solves, over masks ``m`` in {0, 1},

            maximise    sum_l worth_l sum_i |w_li| m_li
            subject to  sum_l price_bl sum_i m_li <= budget_b, for each budget b
                        min_density_l <= mean_i m_li <= max_density_l

        greedily by ``worth_l |w_li| / price_l``; of several budgets, ``price_l`` is
        what a weight costs in what is scarce (`sparsefx.solver.hard_masks_joint`).
        Sites that cost nothing keep their upper bound.

        Args:
            sites: the maskable weights, with the live tensors in ``weight``.
            budget: cost allowed for these sites, above 0, in the unit of ``cost``.
            cost: name of the cost.
            normalize: what weights are compared by, see `worths`.
            budgets: all budgets by name, where there are several.

        Returns:
            The bounds of the sites, and the densities the present weights give.

        Raises:
            BudgetError: a budget is below what the lower bounds cost.
            MaskError: a site has no weight, or one that is not finite.

        Example:
            >>> import sympy, torch
            >>> costs = {"macs": sympy.Integer(1)}
            >>> weight = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
            >>> site = Site("w", "", "linear", (2, 2), costs, weight=weight)
            >>> cost_budget([site], 2).densities
            {'w': 0.5}
        """
        every = {cost: budget, **(budgets or {})}
        for name, amount in every.items():
            check_feasible(sites, amount, name, every)
        rows = {name: unit_prices(sites, name) for name in every}
        rest = {name: k - base_cost(sites, name) for name, k in every.items()}
        limits = [bounds(site) for site in sites]
        scale = worths(sites, normalize, every)
        kept = [high for _, high in limits]
        paid = [
            i for i in range(len(sites)) if any(row[i] > 0 for row in rows.values())
        ]
        layers = [
            Layer(
                magnitude=values(sites[i]),
                price=rows[cost][i] or 1.0,
                worth=scale[i] * sites[i].unit_size,
                lower=limits[i][0],
                upper=limits[i][1],
            )
            for i in paid
        ]
        names = [label(sites[i]) for i in paid]
        joint = Limits(
            costs=tuple(tuple(row[i] for i in paid) for row in rows.values()),
            amounts=tuple(rest.values()),
            names=tuple(every),
        )
        masks = solve_hard_joint(layers, joint, names=names).masks
        for i, count in zip(paid, masks.counts, strict=True):
            kept[i] = count
        weights = [s.base + s.unit_size * n for s, n in zip(sites, kept, strict=True)]
        return Allocation(
            {s.name: s.density(n) for s, (n, _) in zip(sites, limits, strict=True)},
            {s.name: s.density(n) for s, (_, n) in zip(sites, limits, strict=True)},
            {s.name: s.density(n) for s, n in zip(sites, kept, strict=True)},
            *spending(sites, weights, budget, cost, budgets),
        )


cost_budget = CostBudget()


def values(site: Site) -> Tensor:
    """Magnitudes of a site's units without a graph, in at least single precision.

    Raises:
        MaskError: the site has no weight.

    Example:
        >>> import torch
        >>> weight = torch.tensor([-2.0], dtype=torch.bfloat16)
        >>> values(Site("w", "", "linear", (1,), {}, weight=weight))
        tensor([2.])
    """
    return entries(site.groups, weight_of(site)).abs()
