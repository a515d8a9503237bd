"""Densities of least summed damage, which is known of each site at some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, prices
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.solver.hard_masks_joint import solve_hard_joint
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.layer import Layer

Points = Sequence[tuple[float, float]]
Range = tuple[float, float]
_SLICES = 2048  # of the range of a site's densities, under several budgets


@dataclass(frozen=True, slots=True)
class ErrorCurves:
    """What each site's damage is at some densities; a policy function.

    Attributes:
        points: pairs of density and damage by site name, densities rising from 0 to 1.
    """

    points: Mapping[str, Points]

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "macs",
        budgets: Mapping[str, float] | None = None,
    ) -> Allocation:
        """The densities of least summed damage that the budgets pay for.

        Between two densities a site may mix both, so that its damage is the lower hull
        ``h_l`` of its points:

            minimise   sum_l h_l(density_l)
            subject to sum_l price_bl numel_l density_l <= budget_b
                       min_density_l <= density_l <= max_density_l

        That is a linear program. Under one budget that does not pay for all, the pieces
        of all hulls are bought in the order of what they spare for their price, the
        last one in part. Several such budgets are the solver's: a slice of a site's
        range is an entry, what it spares is the entry's value, and the answer is right
        to a 2048th of each range.

        Raises:
            BudgetError: a budget is below what the lower bounds cost.
            PolicyError: a site has no curve.

        Example:
            >>> import sympy
            >>> one = {"params": sympy.Integer(1)}
            >>> pair = [Site(name, name, "linear", (10, 10), one) for name in "ab"]
            >>> curves = ErrorCurves({
            ...     "a": [(0, 9.0), (0.5, 1.0), (1, 0.0)],
            ...     "b": [(0, 4.0), (0.5, 3.0), (1, 0.0)],
            ... })
            >>> curves(pair, 100, "params").densities
            {'a': 0.5, 'b': 0.5}
        """
        every = {cost: budget, **(budgets or {})}
        for name, amount in every.items():
            check_feasible(sites, amount, name, every)
        limited = [density_bounds(site) for site in sites]
        found = [low for low, _ in limited]
        free = [i for i, (low, high) in enumerate(limited) if low < high]
        bare = [sites[i].name for i in free if sites[i].name not in self.points]
        if bare:
            raise PolicyError(
                f"there is no curve for {', '.join(bare[:5])}; measure this model"
            )
        rows, left = [], []
        for name, amount in every.items():
            row = [p * s.numel for p, s in zip(prices(sites, name), sites, strict=True)]
            spent = math.fsum(p * d for p, d in zip(row, found, strict=True))
            rows.append([row[i] for i in free])
            left.append(max(amount - spent, 0.0))
        hulls = [_hull(self.points[sites[i].name]) for i in free]
        ranges = [limited[i] for i in free]
        sizes = [high - low for low, high in ranges]
        whole = [
            math.fsum(map(math.prod, zip(row, sizes, strict=True))) for row in rows
        ]
        binding = [b for b, most in enumerate(whole) if most > left[b]] or [0]
        if len(binding) == 1:
            bought = _bought(hulls, ranges, rows[binding[0]], left[binding[0]])
        else:
            limits = Limits(tuple(map(tuple, rows)), tuple(left), tuple(every))
            bought = _sliced(hulls, ranges, limits)
        for i, more in zip(free, bought, strict=True):
            found[i] = min(found[i] + more, limited[i][1])
        return planned(found, sites, budget, cost, budgets)


def _hull(points: Points) -> Points:
    hull: list[tuple[float, float]] = []
    least = math.inf
    for x, y in points:
        least = min(least, y)  # more weights do no more damage
        while len(hull) > 1 and _above(hull[-2], hull[-1], (x, least)):
            hull.pop()
        hull.append((x, least))
    return hull


def _bought(
    hulls: Sequence[Points],
    ranges: Sequence[Range],
    costs: Sequence[float],
    left: float,
) -> list[float]:
    """What each site's density rises by, under one budget.

    Args:
        hulls: of each site.
        ranges: lowest and highest density.
        costs: of density 1.
        left: of the budget, at the lowest densities.
    """
    pieces = []
    for i, (hull, (low, high)) in enumerate(zip(hulls, ranges, strict=True)):
        for (x, y), (end, damage) in pairwise(hull):
            size = min(end, high) - max(x, low)
            if size > 0:
                rate = (y - damage) / (end - x)
                pieces.append((-rate / costs[i] if costs[i] else -math.inf, i, size))
    found = [0.0] * len(hulls)
    for _, i, size in sorted(pieces):
        part = min(size, left / costs[i]) if costs[i] else size
        found[i] += part
        left = max(left - part * costs[i], 0.0)
    return found


def _sliced(
    hulls: Sequence[Points], ranges: Sequence[Range], limits: Limits
) -> list[float]:
    """The same under several budgets, in slices; costs are of density 1."""
    widths = [(high - low) / _SLICES for low, high in ranges]
    layers = [
        Layer(_spared(hull, *span), 1.0, 1.0, 0, _SLICES)
        for hull, span in zip(hulls, ranges, strict=True)
    ]
    rows = tuple(
        tuple(c * width for c, width in zip(row, widths, strict=True))
        for row in limits.costs
    )
    if not layers:
        return []
    counts = solve_hard_joint(layers, replace(limits, costs=rows)).masks.counts
    return [count * width for count, width in zip(counts, widths, strict=True)]


def _spared(hull: Points, low: float, high: float) -> Tensor:
    """What each slice from the lowest to the highest density spares, falling."""
    x, y = torch.tensor(hull, dtype=torch.float64).T.contiguous()
    at = torch.linspace(low, high, _SLICES + 1, dtype=torch.float64)
    place = torch.bucketize(at, x).clamp(1, len(x) - 1)
    share = (at - x[place - 1]) / (x[place] - x[place - 1])
    damage = torch.lerp(y[place - 1], y[place], share)
    return (damage[:-1] - damage[1:]).clamp_min(0.0)


def _above(
    first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]
) -> bool:
    """Whether the middle point lies on or above the line between the others."""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) >= rise
