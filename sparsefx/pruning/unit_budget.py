r"""How many units of each group go, at least summed damage, for an exact cost.

Groups may share a weight, one its rows and one its columns, so that what a unit saves
depends on what else has gone. One unit after another goes, of the group that saves
most for its damage, until the cost is met:

    kept entries of a weight = prod over its dimensions d of (size_d - lines gone in d)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.errors import BudgetError
from sparsefx.masking.site import Site
from sparsefx.passes.units.unit_map import UnitGroup


@dataclass(frozen=True, slots=True, eq=False)
class UnitCurve:
    """A group of units, and what their going does.

    Attributes:
        group: the units.
        order: all but one of them, the first to go first.
        damages: after none, one, two of them have gone.
    """

    group: UnitGroup
    order: Tensor
    damages: Tensor


def units_to_drop(
    curves: Sequence[UnitCurve], sites: Sequence[Site], cost: str, share: float
) -> dict[str, Tensor]:
    """Which units go, by group, bool.

    Args:
        curves: of every group.
        sites: the weights whose cost counts.
        cost: its name.
        share: of what units own, to keep, in (0, 1].

    Raises:
        BudgetError: one unit a group costs more.
    """
    bill = _Bill(curves, sites, cost)
    whole = bill.spent([0] * len(curves))
    owned = whole - bill.spent([curve.group.size for curve in curves])
    limit = whole - (1 - share) * owned
    least = bill.spent([len(curve.order) for curve in curves])
    if least > limit:
        raise BudgetError(
            f"unit_density {share:g} is below {1 - (whole - least) / owned:.3g}, which "
            f"is what one unit in each of {len(curves)} groups costs; raise it"
        )
    steps = [_rising(curve.damages.diff()) for curve in curves]
    gone = [0] * len(curves)
    while bill.spent(gone) > limit:
        found = []
        for index, (curve, own) in enumerate(zip(curves, steps, strict=True)):
            if gone[index] < len(curve.order):
                saved = bill.saved(gone, index)
                found.append((own[gone[index]] / max(saved, 1e-30), index))
        gone[min(found)[1]] += 1
    return {c.group.name: _first(c, n) for c, n in zip(curves, gone, strict=True)}


class _Bill:
    """What weights cost, by how many units of each group have gone."""

    def __init__(
        self, curves: Sequence[UnitCurve], sites: Sequence[Site], cost: str
    ) -> None:
        self.rows: list[tuple[float, Site, list[tuple[int, int, int]]]] = [
            (
                site.cost(cost),
                site,
                [
                    (share.dim, i, int((share.owner >= 0).sum()) // curve.group.size)
                    for i, curve in enumerate(curves)
                    for share in curve.group.tensors
                    if share.name == site.name
                ],
            )
            for site in sites
        ]
        self.of = [
            [row for row in self.rows if any(i == index for _, i, _ in row[2])]
            for index in range(len(curves))
        ]

    def spent(self, gone: Sequence[int]) -> float:
        return sum(_cost(row, gone) for row in self.rows)

    def saved(self, gone: Sequence[int], index: int) -> float:
        """What one more unit of a group saves."""
        more = [n + (i == index) for i, n in enumerate(gone)]
        return sum(_cost(row, gone) - _cost(row, more) for row in self.of[index])


def _cost(
    row: tuple[float, Site, list[tuple[int, int, int]]], gone: Sequence[int]
) -> float:
    price, site, lines = row
    left = list(site.shape)
    for dim, index, each in lines:
        left[dim] -= each * gone[index]
    return price * math.prod(left)


def _first(curve: UnitCurve, count: int) -> Tensor:
    found = torch.zeros(curve.group.size, dtype=torch.bool)
    found[curve.order[:count]] = True
    return found


def _rising(steps: Tensor) -> list[float]:
    """The steps of the lower hull: neighbours that fall become their mean."""
    pools: list[tuple[float, int]] = []
    for step in steps.tolist():
        total, count = step, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / count:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
