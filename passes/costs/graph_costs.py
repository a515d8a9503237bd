"""What a graph costs before and after a rewrite: weights, products, norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.costs.cost_table import CostTable
from sparsefx.passes.graphs.weight_sources import label_of
from sparsefx.passes.iso_flop.replaceable_layers import is_norm
from sparsefx.torch_internals import hint


@dataclass(frozen=True, slots=True)
class Prices:
    """What a graph costs.

    Attributes:
        table: a row for each weight, and for each product of activations.
        norms: entries that norms scale.
    """

    table: CostTable
    norms: int

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> Prices:
        """The costs of a graph that owns its parameters and has recorded values."""
        table = cost_table(graph_module, {"": graph_module})
        scaled = [node for node in graph_module.graph.nodes if _scales(node)]
        return cls(table, sum(_entries(node) for node in scaled))

    def each(self) -> dict[str, int]:
        """MACs of one entry, by weight; without weights that cost nothing."""
        return {
            row.name: row.number() // row.params
            for row in self.table
            if row.maskable and row.number() > 0
        }

    @property
    def whole(self) -> int:
        """MACs of the whole model, norms too."""
        return self.table.totals()["macs"]["total"] + self.norms


def _scales(node: fx.Node) -> bool:
    """Whether a node is a norm, or the product of one that is spelled out."""
    if is_norm(node):
        return True
    inputs = map(label_of, node.all_input_nodes)
    return label_of(node) == "mul" and "rsqrt" in inputs


def _entries(node: fx.Node) -> int:
    return math.prod(hint(size) for size in node.meta["val"].shape)


def macs_of(before: Prices, after: Prices, kept: Mapping[str, int]) -> dict[str, int]:
    """The sums of `IsoFlop.macs`."""
    spent = sum(
        row.number() * kept.get(row.name, row.params) // max(row.params, 1)
        for row in after.table
        if row.maskable
    )
    first, last = (prices.table.totals()["macs"] for prices in (before, after))
    return {
        "before": first["maskable"],
        "after": spent,
        "model_before": first["total"],
        "model_after": last["fixed"] + spent,
        "norms_before": before.norms,
        "norms_after": after.norms,
    }
