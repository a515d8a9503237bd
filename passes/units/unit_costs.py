r"""What one unit costs: its share of weights and of products of activations.

Where two groups divide a weight, one its rows and one its columns, each has half of
what both own. With ``k`` of ``n`` and ``l`` of ``m`` units kept, that is never less
than what is left:

    (k / n + l / m) / 2  >=  (k / n) (l / m)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from sparsefx.passes.costs.node_costs import price
from sparsefx.passes.costs.symbolic_size import Amount
from sparsefx.passes.graphs.weight_sources import Scope
from sparsefx.passes.units.unit_map import Share


class Division(Protocol):
    """A group of units, as far as its cost needs it."""

    labels: list[int]
    tensors: list[Share]


def unit_costs(
    module: fx.GraphModule,
    groups: Sequence[Division],
    layout: Mapping[str, Sequence[Mapping[int, tuple[Tensor, Tensor]]]],
) -> list[tuple[float, float]]:
    """MACs and parameters that go with one unit of each group.

    A weight entry counts what `sparsefx.costs` says of it; a product of activations
    counts by the share of its result that the group owns.
    """
    values: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    names = {name: name for name in values}
    scope = Scope.of(module.graph, names)
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
    parts = _shared(groups, values)
    found = []
    for index, group in enumerate(groups):
        macs, params = fixed[index], 0.0
        for share in group.tensors:
            if share.name not in values:
                continue  # a buffer
            rest = [d for d in range(values[share.name].ndim) if d != share.dim]
            lines = parts[share.name].sum(rest) if rest else parts[share.name]
            entries = float(lines[share.owner >= 0].sum())
            macs += entries * per_entry[share.name]
            params += entries
        size = len(group.labels)
        found.append((macs / size, params / size))
    return found


def _shared(
    groups: Sequence[Division], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By parameter, the part of each entry that each of its owners has."""
    counts: dict[str, Tensor] = {}
    for group in groups:
        for share in group.tensors:
            if share.name in values:
                shape = values[share.name].shape
                count = counts.setdefault(
                    share.name, torch.zeros(shape, dtype=torch.float64)
                )
                along = [1] * len(shape)
                along[share.dim] = -1
                count += (share.owner >= 0).view(along)
    return {name: 1 / count.clamp_min(1) for name, count in counts.items()}


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
