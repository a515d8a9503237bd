r"""What one unit costs: its share of weights and of products of activations.

Where two groups that may close divide a weight, one its rows and one its columns, each
has half of what both own. With ``k`` of ``n`` and ``l`` of ``m`` units kept, that is
never less than what is left:

    (k / n + l / m) / 2  >=  (k / n) (l / m)

Where the other group stays whole, all of it goes with the units of the one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, fx

from sparsefx.passes.costs.node_costs import price
from sparsefx.passes.costs.symbolic_size import Amount
from sparsefx.passes.graphs.weight_sources import Scope

if TYPE_CHECKING:
    from sparsefx.passes.units.unit_map import Share, UnitGroup, UnitMap


class Division(Protocol):
    """A group of units, as far as its cost needs it."""

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def tensors(self) -> Sequence[Share]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """What there is to share.

    Attributes:
        shapes: of the parameters.
        per_entry: MACs that go with an entry of a parameter.
        fixed: MACs of products of activations, by number of the group.
    """

    shapes: Mapping[str, torch.Size]
    per_entry: Mapping[str, float]
    fixed: Mapping[int, float]

    def costs(self, groups: Mapping[int, Division]) -> dict[int, tuple[float, float]]:
        """MACs and parameters that go with one unit, by number of the group.

        Args:
            groups: those that may close, by number; no other has a share.
        """
        parts = self._shared(list(groups.values()))
        found = {}
        for index, group in groups.items():
            macs, params = self.fixed.get(index, 0.0), 0.0
            for share in group.tensors:
                if share.name not in parts:
                    continue  # a buffer
                part = parts[share.name]
                rest = [d for d in range(part.ndim) if d != share.dim]
                lines = part.sum(rest) if rest else part
                entries = float(lines[share.owner >= 0].sum())
                macs += entries * self.per_entry.get(share.name, 0.0)
                params += entries
            found[index] = macs / group.size, params / group.size
        return found

    def _shared(self, groups: Sequence[Division]) -> dict[str, Tensor]:
        """By parameter, the part of each entry that each of its owners has."""
        counts: dict[str, Tensor] = {}
        for share in (share for group in groups for share in group.tensors):
            if share.name in self.shapes:
                shape = self.shapes[share.name]
                empty = torch.zeros(shape, dtype=torch.float64)
                along = [1] * len(shape)
                along[share.dim] = -1
                count = counts.setdefault(share.name, empty)
                count += (share.owner >= 0).view(along)
        return {name: 1 / count.clamp_min(1) for name, count in counts.items()}


def unit_prices(
    module: fx.GraphModule,
    layout: Mapping[str, Sequence[Mapping[int, tuple[Tensor, Tensor]]]],
) -> UnitPrices:
    """What a graph's weights and products of activations cost.

    A weight entry counts what `sparsefx.costs` says of it; a product of activations
    counts by the share of its result that a group owns.
    """
    values = dict(module.named_parameters(remove_duplicate=False))
    scope = Scope.of(module.graph, {name: name for name in values})
    per_entry: dict[str, float] = defaultdict(float)
    fixed: dict[int, float] = defaultdict(float)
    for node in module.graph.nodes:
        priced = price(node, scope)
        for use in priced.uses:
            uses = Amount(use.macs_per_weight, use.sizes).number()
            per_entry[use.parameter] += uses
        if priced.fixed is not None:
            for index, part in _parts(node, layout):
                fixed[index] += part * priced.fixed.number()
    return UnitPrices({n: v.shape for n, v in values.items()}, per_entry, fixed)


def among(units: UnitMap, names: Collection[str]) -> tuple[UnitGroup, ...]:
    """Some groups, at what their units cost where all the others stay whole.

    Args:
        units: of a graph.
        names: of the groups that may close.
    """
    every = list(units.groups.values())
    chosen = {i: group for i, group in enumerate(every) if group.name in names}
    costs = units.prices.costs(chosen)
    return tuple(
        replace(group, macs=costs[i][0], params=costs[i][1])
        for i, group in chosen.items()
    )


def _parts(node: fx.Node, layout: Mapping[str, Any]) -> list[tuple[int, float]]:
    """The share of a product's result that each group owns."""
    found = []
    for dims in layout.get(node.name, ())[:1]:
        for groups, _ in dims.values():
            for index in torch.unique(groups).tolist():
                if index >= 0:
                    part = float((groups == index).sum()) / math.prod(groups.shape)
                    found.append((index, part))
    return found
