"""The global policy: the weights themselves decide, under one linear cost budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.errors import MaskError, PolicyError
from sparsefx.greedy import solve_hard
from sparsefx.layer import Layer
from sparsefx.policies.allocation import (
    Allocation,
    bounds,
    check_feasible,
    label,
    prices,
)
from sparsefx.site import Site

NORMALIZATIONS = ("layer", "global", "none")


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
        >>> costs = {"macs": sympy.Integer(1)}
        >>> weight = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
        >>> site = Site("w", "", "linear", (2, 2), costs, weight=weight)
        >>> cost_budget([site], 2).densities
        {'w': 0.5}
    """
    check_feasible(sites, budget, cost)
    per_weight = prices(sites, cost)
    limits = [bounds(site) for site in sites]
    scale = worths(sites, normalize, cost)
    kept = [high for _, high in limits]
    paid = [i for i, price in enumerate(per_weight) if price > 0]
    layers = [
        Layer(
            magnitude=magnitude(sites[i]),
            price=per_weight[i],
            worth=scale[i],
            lower=limits[i][0],
            upper=limits[i][1],
        )
        for i in paid
    ]
    names = [label(sites[i]) for i in paid]
    masks = solve_hard(layers, budget, names=names)
    for i, count in zip(paid, masks.counts, strict=True):
        kept[i] = count
    sizes = [max(site.numel, 1) for site in sites]
    names = [site.name for site in sites]
    return Allocation(
        lower={
            name: low / size
            for name, size, (low, _) in zip(names, sizes, limits, strict=True)
        },
        upper={
            name: high / size
            for name, size, (_, high) in zip(names, sizes, limits, strict=True)
        },
        densities={
            name: count / size
            for name, size, count in zip(names, sizes, kept, strict=True)
        },
        cost=math.fsum(p * n for p, n in zip(per_weight, kept, strict=True)),
        budget=budget,
        dense=math.fsum(p * s.numel for p, s in zip(per_weight, sites, strict=True)),
    )


def worths(sites: Sequence[Site], normalize: str, cost: str) -> list[float]:
    """What a unit of ``|w|`` in each site is worth: the one place that normalises.

    Masks depend on ``beta * worth_l * |w| / price_l``, so beta means the same in
    every model only if that quotient has a scale of its own. With the mean price
    ``p = sum_l price_l numel_l / sum_l numel_l`` of the sites that cost something:

    - ``"layer"``: ``p / mean|w_l|``; each layer's mean weight is worth 1.
    - ``"global"``: ``p / mean|w|`` over all sites that cost something.
    - ``"none"``: 1, the raw values and prices.

    Args:
        sites: the maskable weights, with the live tensors in ``weight``.
        normalize: ``"layer"``, ``"global"`` or ``"none"``.
        cost: name of the cost.

    Returns:
        One positive number a site; where all weights are zero the mean counts as 1.

    Raises:
        PolicyError: ``normalize`` is not known.
        MaskError: a site has no weight, or one that is not finite.

    Example:
        >>> import sympy
        >>> costs = {"macs": sympy.Integer(6)}
        >>> weight = torch.tensor([[4.0, -2.0]])
        >>> worths([Site("w", "", "linear", (1, 2), costs, weight=weight)], "layer",
        ...        "macs")
        [2.0]
    """
    if normalize not in NORMALIZATIONS:
        raise PolicyError(
            f"normalize {normalize!r} is not known; allowed: "
            f"{', '.join(NORMALIZATIONS)}"
        )
    totals = _absolute_sums(sites)
    if normalize == "none":
        return [1.0] * len(sites)
    per_weight = prices(sites, cost)
    paid = [i for i, price in enumerate(per_weight) if price > 0]
    size = sum(sites[i].numel for i in paid)
    mean_price = sum(per_weight[i] * sites[i].numel for i in paid) / size
    if normalize == "global":
        mean = sum(totals[i] for i in paid) / size
        return [mean_price / (mean or 1.0)] * len(sites)
    means = [t / max(s.numel, 1) for t, s in zip(totals, sites, strict=True)]
    return [mean_price / (mean or 1.0) for mean in means]


def magnitude(site: Site) -> Tensor:
    """``|w|`` of a site's weight without a graph, in at least single precision.

    Raises:
        MaskError: the site has no weight.

    Example:
        >>> weight = torch.tensor([-2.0], dtype=torch.bfloat16)
        >>> magnitude(Site("w", "", "linear", (1,), {}, weight=weight))
        tensor([2.])
    """
    weight = _weight(site)
    return weight.detach().abs().to(_precise(weight))


def _precise(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _absolute_sums(sites: Sequence[Site]) -> list[float]:
    weights = [_weight(site) for site in sites]
    norms = [
        torch.linalg.vector_norm(weight.detach(), ord=1, dtype=_precise(weight)).to(
            weights[0].device, torch.float64
        )
        for weight in weights
    ]
    # One transfer for all layers: a host read each would stall a GPU that often.
    sums: list[float] = torch.stack(norms).tolist() if norms else []
    for site, total in zip(sites, sums, strict=True):
        if not math.isfinite(total):
            raise MaskError(
                f"{label(site)} holds NaN or Inf in {site.name}; masks rank weights "
                "by magnitude, so make every weight finite first"
            )
    return sums


def _weight(site: Site) -> Tensor:
    if site.weight is None:
        raise MaskError(
            f"{label(site)} has no weight tensor; the cost_budget policy ranks "
            "weights, so give Site(..., weight=...) or use the policy uniform or erk"
        )
    return site.weight
