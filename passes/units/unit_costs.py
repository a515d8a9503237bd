"""What one unit costs: its share of weights and of products of activations."""

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
) -> list[tuple[float, int]]:
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
    found = []
    for index, group in enumerate(groups):
        macs: float = fixed[index]
        params = 0
        for share in group.tensors:
            if share.name not in values:
                continue  # a buffer
            value = values[share.name]
            lines = int((share.owner >= 0).sum())
            entries = value.numel() // value.shape[share.dim] * lines
            macs += entries * per_entry[share.name]
            params += entries
        size = len(group.labels)
        found.append((macs / size, params // size))
    return found


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
