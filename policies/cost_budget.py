"""The global policy: the weights themselves decide, under one linear cost budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from sparsefx.greedy import solve_hard
from sparsefx.grouped import entries
from sparsefx.layer import Layer
from sparsefx.policies.allocation import (
    Allocation,
    check_feasible,
    prices,
    unit_prices,
)
from sparsefx.policies.bounds import base_cost, bounds, label
from sparsefx.policies.worths import weight_of, worths
from sparsefx.site import Site


def cost_budget(
    sites: Sequence[Site], budget: float, cost: str = "macs", normalize: str = "layer"
) -> Allocation:
    """Keeps the weights worth most per unit of cost, wherever they are.

    Solves, over masks ``m`` in {0, 1},

        maximise    sum_l worth_l sum_i |w_li| m_li
        subject to  sum_l price_l sum_i m_li <= budget
                    min_density_l <= mean_i m_li <= max_density_l

    greedily by ``worth_l |w_li| / price_l``; sites that cost nothing keep their upper
    bound.

    Args:
        sites: the maskable weights, with the live tensors in ``weight``.
        budget: cost allowed for these sites, above 0, in the unit of ``cost``.
        cost: name of the cost.
        normalize: what weights are compared by, see `worths`.

    Returns:
        The bounds of the sites, and the densities the present weights give.

    Raises:
        BudgetError: the budget is below what the lower bounds cost.
        MaskError: a site has no weight, or one that is not finite.

    Example:
        >>> import sympy
        >>> import torch
        >>> costs = {"macs": sympy.Integer(1)}
        >>> weight = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
        >>> site = Site("w", "", "linear", (2, 2), costs, weight=weight)
        >>> cost_budget([site], 2).densities
        {'w': 0.5}
    """
    check_feasible(sites, budget, cost)
    per_unit = unit_prices(sites, cost)
    limits = [bounds(site) for site in sites]
    scale = worths(sites, normalize, cost)
    base = base_cost(sites, cost)
    kept = [high for _, high in limits]
    paid = [i for i, price in enumerate(per_unit) if price > 0]
    layers = [
        Layer(
            magnitude=values(sites[i]),
            price=per_unit[i],
            worth=scale[i] * sites[i].unit_size,
            lower=limits[i][0],
            upper=limits[i][1],
        )
        for i in paid
    ]
    names = [label(sites[i]) for i in paid]
    masks = solve_hard(layers, budget - base, names=names)
    for i, count in zip(paid, masks.counts, strict=True):
        kept[i] = count
    per_weight = prices(sites, cost)
    return Allocation(
        lower={s.name: s.density(n) for s, (n, _) in zip(sites, limits, strict=True)},
        upper={s.name: s.density(n) for s, (_, n) in zip(sites, limits, strict=True)},
        densities={s.name: s.density(n) for s, n in zip(sites, kept, strict=True)},
        cost=base + math.fsum(p * n for p, n in zip(per_unit, kept, strict=True)),
        budget=budget,
        dense=math.fsum(p * s.numel for p, s in zip(per_weight, sites, strict=True)),
    )


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
