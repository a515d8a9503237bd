"""The projection as the Spartan paper's authors compute it, written plainly anew.

Sort all values, gather the costs, cumulate them, find the threshold; then log-domain
Sinkhorn with one potential per weight until the objective moves by at most 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

TOLERANCE, MAX_SWEEPS = 1e-2, 100


@torch.no_grad()
def project(
    weights: Sequence[Tensor],
    prices: Sequence[float],
    worths: Sequence[float],
    budget: float,
    beta: float,
) -> tuple[list[Tensor], float]:
    """Soft masks of all weights and the threshold's unit value."""
    pairs = list(zip(weights, prices, strict=True))
    costs = torch.cat([w.new_full((w.numel(),), price) for w, price in pairs])
    values = torch.cat(
        [w.abs().reshape(-1) * worth for w, worth in zip(weights, worths, strict=True)]
    )
    unit = values / costs
    order = unit.argsort(descending=True)
    spent = costs[order].cumsum(0)
    place = min(int(torch.searchsorted(spent, budget)), len(spent) - 1)
    cutoff = float(unit[order[place]])
    z, log_costs = beta * (unit - cutoff), costs.log()
    nu = log_costs - softplus(z)
    objective = math.nan
    for _ in range(MAX_SWEEPS):
        mu = math.log(budget) - float(torch.logsumexp(z + nu, 0))
        nu = log_costs - softplus(z + mu)
        mask = (z + mu + nu - log_costs).exp()
        last, objective = objective, float((mask * values).sum())
        if abs(objective - last) <= TOLERANCE * abs(last):
            break
    parts = mask.split([w.numel() for w in weights])
    return [m.view_as(w).clone() for m, w in zip(parts, weights, strict=True)], cutoff
