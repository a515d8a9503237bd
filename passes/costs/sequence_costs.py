"""The price of recurrent layers and of grouped products."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from sparsefx.passes.costs.cost_table import linear_uses
from sparsefx.passes.costs.node_cost import Priced, weighted
from sparsefx.passes.costs.symbolic_size import Amount, integer
from sparsefx.passes.graphs.weight_sources import Scope, label_of, shape_of
from sparsefx.torch_internals import hint


def recurrent(node: fx.Node, scope: Scope) -> Priced:
    """All layers of a recurrent network: each weight is used at every token."""
    # the weights stand behind the states, or behind the lengths and the states
    position = 2 if isinstance(node.args[3], bool) else 3
    weights = node.args[position]
    uses = linear_uses(shape_of(node.args[0])[:-1], scope.symbolic)
    assert isinstance(weights, list | tuple)
    return _several(node, weights, uses, scope)


def cell(node: fx.Node, scope: Scope) -> Priced:
    """One step of a recurrent layer."""
    uses = linear_uses(shape_of(node.args[0])[:-1], scope.symbolic)
    return _several(node, node.args[2:4], uses, scope)


def _several(
    node: fx.Node, weights: Sequence[object], uses: Amount, scope: Scope
) -> Priced:
    priced = Priced()
    for weight in weights:
        if len(shape_of(weight)) == 2:
            priced += weighted(node, weight, label_of(node), uses, scope)
    return priced


def grouped(node: fx.Node, scope: Scope) -> Priced:
    """Each row meets one of the matrices: their mean, whatever the split."""
    uses = linear_uses(shape_of(node.args[0])[:-1], scope.symbolic)
    groups = hint(shape_of(node.args[1])[0])
    share = uses.times(Amount(integer(1) / groups))
    return weighted(node, node.args[1], "grouped_mm", share, scope)
