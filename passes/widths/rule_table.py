"""What each operation does to the widths of its inputs: the table of rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.widths.axes import FIXED
from sparsefx.passes.widths.layer_rules import LAYERS
from sparsefx.passes.widths.split_rules import PIECES
from sparsefx.passes.widths.view_rules import VIEWS
from sparsefx.passes.widths.width_flow import Rule, Value, Widths
from sparsefx.tracing.operations import OPERATIONS, Kind, called


def _each(flow: Widths, node: fx.Node) -> Value:
    """Entry by entry: sizes meet, those of 1 stretch."""
    inputs = [*node.args, *node.kwargs.values()]
    return flow.broadcast([value for x in inputs if (value := flow.of(x))])


def _spatial(flow: Widths, node: fx.Node) -> Value:
    """Batch and channels stay; what is behind them is another grid."""
    x = flow.first(node)
    depth = next((int(c) for c in called(node) if c.isdigit()), len(x) - 2)
    for axis in x[len(x) - depth :]:
        flow.axes.hold(axis, "a grid is resampled")
    grid = flow.size(node)[len(x) - depth :]
    return [*x[: len(x) - depth], *(((FIXED, size),) for size in grid)]


def _reduce(flow: Widths, node: fx.Node) -> Any:
    x, rank = flow.first(node), len(flow.size(node))
    dims: Any = argument(node, 1, "dim")
    if rank == 0:
        return []
    if dims is None:
        return flow.give_up(node, "a reduction that does not say over which axes")
    chosen = [d % len(x) for d in (dims if isinstance(dims, list | tuple) else [dims])]
    if rank == len(x):
        return [((FIXED, 1),) if i in chosen else axis for i, axis in enumerate(x)]
    return [axis for i, axis in enumerate(x) if i not in chosen]


def _pad(flow: Widths, node: fx.Node) -> Any:
    x, sizes = flow.first(node), flow.size(node)
    out = []
    for axis, size in zip(x, sizes, strict=True):
        if flow.axes.size(axis) != size:
            flow.axes.hold(axis, "it is padded")
            axis = ((FIXED, size),)
        out.append(axis)
    return out


def _constant(flow: Widths, node: fx.Node) -> Any:
    return flow.fixed(node)


def _same(flow: Widths, node: fx.Node) -> Value:
    """The first argument's shape."""
    return flow.first(node)


KINDS: Mapping[Kind, Rule] = {
    "each": _each,
    "casts": _same,
    "first": _same,
    "mixes": _same,
    "resamples": _spatial,
    "reduces": _reduce,
    "makes": _constant,
}

RULES: Mapping[str, Rule] = {"pad": _pad, **VIEWS, **PIECES, **LAYERS}


def rule_of(name: str) -> Rule | None:
    """The rule of an operation of the table, or None."""
    kind = OPERATIONS.get(name)
    return None if kind is None else RULES.get(name) or KINDS[kind]
