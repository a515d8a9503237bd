"""What magnitudes are worth: the one place that makes layers comparable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsefx.errors import MaskError, PolicyError
from sparsefx.masking.masked_groups import entries
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import prices
from sparsefx.policies.unit_bounds import label

Normalize = Literal["layer", "global", "none"]


def worths(
    sites: Sequence[Site],
    normalize: str,
    costs: str | Mapping[str, float],
    sums: Sequence[float] | None = None,
    paid: Sequence[float] | None = None,
) -> list[float]:
    r"""What a unit of ``|w|`` in each site is worth.

    Groups of weights count by their mean magnitude, as one entry each.

    Masks depend on ``beta * worth_l |w| / price_l``. With ``scale`` such that this
    quotient has mean 1 over all weights that cost something, so that beta means the
    same in every model:

    - ``"layer"``: ``scale * sqrt(price_l / fan_in_l) / mean|w_l|``. A weight's share
      ``|w| / (mean|w_l| sqrt(fan_in_l))`` of the deviation of the unit it feeds has no
      scale and knows the layer's shape. Its square is an effect; what is kept is what
      has most effect for its cost, and ``worth |w| / price`` is the root of that.
    - ``"global"``: ``scale``; raw magnitudes compete, as in the Spartan paper.
    - ``"none"``: raw magnitudes and a raw beta, the price being that of one example:
      a number of MACs, say, is a whole batch's (of several budgets, as the first).

    Args:
        sites: the maskable weights, with the live tensors in ``weight``.
        normalize: ``"layer"``, ``"global"`` or ``"none"``.
        costs: name of the cost; of several budgets, each with what it allows.
        sums: the sum of each site's values (``|w|``, or means of groups), where known;
            saves reading the weights.
        paid: what a kept weight of each site costs in what is scarce; the first cost
            if not given.

    Returns:
        One positive number a site; where all weights are zero the mean counts as 1.

    Raises:
        PolicyError: ``normalize`` is not known.
        MaskError: a site has no weight, or one that is not finite.

    Example:
        >>> import sympy
        >>> one = {"macs": sympy.Integer(6)}
        >>> weight = torch.tensor([[4.0, -2.0]])
        >>> worths([Site("w", "", "linear", (1, 2), one, weight=weight)], "layer",
        ...        "macs")
        [2.0]
    """
    if normalize not in get_args(Normalize):
        raise PolicyError(
            f"normalize {normalize!r} is not known; allowed: "
            f"{', '.join(get_args(Normalize))}"
        )
    budgets = {costs: 1.0} if isinstance(costs, str) else costs
    totals = _absolute_sums(sites) if sums is None else list(sums)
    _check_finite(sites, totals)
    if normalize == "none":
        return [examples(sites, next(iter(budgets)))] * len(sites)
    per_weight = prices(sites, next(iter(budgets))) if paid is None else paid
    means = [_mean(s, t) or 1.0 for t, s in zip(totals, sites, strict=True)]
    raw = [1.0] * len(sites)
    if normalize == "layer":
        raw = [x / mean for x, mean in zip(shares(sites, budgets), means, strict=True)]
    costly = [i for i, price in enumerate(per_weight) if price > 0]
    count = math.fsum(sites[i].units for i in costly)
    total = math.fsum(raw[i] * totals[i] / per_weight[i] for i in costly) or count
    return [worth * count / total for worth in raw]


def examples(sites: Sequence[Site], cost: str) -> float:
    """How many examples a cost is counted for; 1 where it is the same for any number.

    Example:
        >>> import sympy
        >>> costs = {"macs": 9 * sympy.Symbol("batch"), "params": sympy.Integer(1)}
        >>> site = Site("w", "", "linear", (4, 4), costs, {"batch": 8})
        >>> examples([site], "macs"), examples([site], "params")
        (8.0, 1.0)
    """
    whole = math.fsum(site.cost(cost) * site.numel for site in sites)
    single = math.fsum(site.cost(cost, {"batch": 1}) * site.numel for site in sites)
    return whole / single if single > 0 else 1.0


def shares(sites: Sequence[Site], budgets: Mapping[str, float]) -> list[float]:
    """``sqrt(price / fan_in)`` of each site: what ``"layer"`` scales its worth by.

    Prices are those of the tightest budget, the least share of what all sites cost.
    Sites that cost nothing there count as if their price was 1.

    Example:
        >>> import sympy
        >>> costs = {"macs": sympy.Integer(9)}
        >>> wide = Site("w", "", "linear", (4, 16), costs)
        >>> shares([wide, Site("v", "", "linear", (4, 4), costs)], {"macs": 1.0})
        [0.75, 1.5]
    """
    rows = {cost: prices(sites, cost) for cost in budgets}

    def looseness(cost: str) -> float:
        pairs = zip(rows[cost], sites, strict=True)
        return budgets[cost] / math.fsum(price * site.numel for price, site in pairs)

    return [
        math.sqrt((price or 1.0) / _fan_in(site))
        for price, site in zip(rows[min(rows, key=looseness)], sites, strict=True)
    ]


def _fan_in(site: Site) -> float:
    units = 1 if site.op.startswith("conv_transpose") else 0
    return 1 if "embedding" in site.op else site.numel / max(site.shape[units], 1)


def _mean(site: Site, total: float) -> float:
    """The mean magnitude that a site's values are compared with."""
    if site.base:  # the one entry is what would be dropped: compare it with the whole
        return float(weight_of(site).detach().abs().mean(dtype=torch.float32))
    return total / max(site.units, 1)


def _absolute_sums(sites: Sequence[Site]) -> list[float]:
    weights = [entries(site.groups, weight_of(site)) for site in sites]
    norms = [
        torch.linalg.vector_norm(
            weight.detach(),
            ord=1,
            dtype=torch.promote_types(weight.dtype, torch.float32),
        ).to(weights[0].device, torch.float64)
        for weight in weights
    ]
    # One transfer for all layers: a host read each would stall a GPU that often.
    sums: list[float] = torch.stack(norms).tolist() if norms else []
    return sums


def _check_finite(sites: Sequence[Site], sums: Sequence[float]) -> None:
    for site, total in zip(sites, sums, strict=True):
        if not math.isfinite(total):
            raise MaskError(
                f"{label(site)} holds NaN or Inf in {site.name}; masks rank weights "
                "by magnitude, so make every weight finite first"
            )


def weight_of(site: Site) -> Tensor:
    """The live weight of a site.

    Raises:
        MaskError: the site has none.
    """
    if site.weight is None:
        raise MaskError(
            f"{label(site)} has no weight tensor; the cost_budget policy ranks "
            "weights, so give Site(..., weight=...) or use the policy uniform or erk"
        )
    return site.weight
