"""Removes units from a graph: what is left is a smaller dense model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.passes.find_units import find_units
from sparsefx.passes.gate_units import UnitGates, gated, scored
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.standalone_graph import plain_graph
from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.units.idle_units import Idle, idle_units
from sparsefx.passes.units.size_literals import Lines, resize
from sparsefx.passes.units.tag_interpreter import Values, run_on_zeros
from sparsefx.passes.units.unit_map import Share, UnitGroup, UnitMap, kept_indices
from sparsefx.torch_internals import hint
from sparsefx.tracing.graph_module import place
from sparsefx.tracing.symbolic_inputs import check_any_batch


@dataclass(frozen=True, slots=True)
class ShrinkUnits(Pass):
    """Cuts units out of the weights, and their sizes out of the graph.

    Before, and after half of the heads and of the neurons are cut::

        qkv = F.linear(x, qkv_weight)             # weight (1152, 384) -> (576, 384)
        parts = qkv.reshape(b, 197, 3, 6, 64)     parts = qkv.reshape(b, 197, 3, 3, 64)
        ...                                       ...
        a = a.reshape(b, 197, 384)                a = a.reshape(b, 197, 192)

    What is computed is exactly what the graph computes with the gates of those units
    at 0: the sums only lose terms that are zero. A unit whose own weights are zero,
    so that its biases alone give a constant, is cut too, and what the constant adds
    moves into the bias behind it. Parameters keep their names; gates are gone, and
    gates between 0 and 1 are multiplied into the weights behind them.

    Attributes:
        keep: by group, the indices of the units to keep; groups that are not named
            keep those whose gates are not 0, or that are not idle, see `idle_units`.
        round_to: the number of units kept in each group is rounded up to a multiple;
            the units added compute nothing.
        units: what `find_units` says of the graph; found anew if None.

    Raises:
        MaskError: ``keep`` names an unknown group or unit.
        CaptureError: a size in the graph cannot be followed, or it holds for one batch
            size only.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> graph = capture(net, (torch.ones(3, 4),)).graphs[""]
        >>> small = ShrinkUnits({"2.neurons": [0, 5, 6]})(graph)
        >>> {name: tuple(value.shape) for name, value in small.named_parameters()}
        {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}
    """

    keep: Mapping[str, Sequence[int]] | None = None
    round_to: int = 1
    units: UnitMap | None = None

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Returns a new module; the one given is left as it is."""
        check_any_batch(graph_module)
        units = find_units(graph_module) if self.units is None else self.units
        gates = _gates(graph_module, units)
        given = (self.keep or {}).keys() - units.groups.keys()
        if given:
            raise MaskError(
                f"keep names {sorted(given)}; the groups of this graph are "
                f"{', '.join(units.groups)}"
            )
        idle = idle_units(graph_module, units, {*gates, *(self.keep or {})})
        groups = list(units.groups.values())
        keeps = [self._kept(g, gates.get(g.name), idle) for g in groups]
        pairs = zip(groups, keeps, strict=True)
        cuts = _Cuts({g.name: (g, kept) for g, kept in pairs}, gates, idle)
        lines = Lines(units.layout, [k for k, _ in keeps])
        graph, twin = _copied(graph_module, lines)
        small = plain_graph(graph, graph_module, cuts.value, "Small")
        for call, constant in cuts.constants.items():
            if argument(call, 2, "bias") is None and bool((constant != 0).any()):
                _add_bias(small, twin[call], cuts.rows(call, constant))
        small.recompile()
        _check(small, {twin[node]: _size(node, lines) for node in twin})
        return small

    def _kept(
        self, group: UnitGroup, gate: Tensor | None, idle: Mapping[str, Idle]
    ) -> tuple[Tensor, Tensor]:
        """Which units stay, and which of them compute nothing."""
        works = torch.ones(group.size, dtype=torch.bool)
        if self.keep is not None and group.name in self.keep:
            given = list(self.keep[group.name])
            wrong = [i for i in given if not 0 <= i < group.size]
            if wrong:
                raise MaskError(
                    f"{group.name} has {group.size} units; keep names {wrong[:5]}"
                )
            works = torch.zeros_like(works)
            works[given] = True
        elif gate is not None:
            works = gate.cpu() != 0
        else:
            works = ~idle[group.name].units
        count = max(int(works.sum()), 1)
        count = min(-(-count // self.round_to) * self.round_to, group.size)
        stays = works.clone()
        stays[(~works).nonzero().flatten()[: count - int(works.sum())]] = True
        return stays, stays & ~works


class _Cuts:
    """The new value of every tensor."""

    def __init__(
        self,
        groups: Mapping[str, tuple[UnitGroup, tuple[Tensor, Tensor]]],
        gates: Mapping[str, Tensor],
        idle: Mapping[str, Idle],
    ) -> None:
        self.groups, self.gates, self.idle = groups, gates, idle

        self.constants: dict[fx.Node, Tensor] = {}
        for group, (stays, silent) in groups.values():
            gone = (~stays | silent) & idle[group.name].units
            for call, part in idle[group.name].folds.items():
                more = part[:, gone.to(part.device)].sum(1)
                self.constants[call] = self.constants.get(call, 0) + more
        self.biases = {
            str(bias.target): constant
            for call, constant in self.constants.items()
            if isinstance(bias := argument(call, 2, "bias"), fx.Node)
        }

    def shares(self, name: str) -> Iterator[tuple[Share, UnitGroup, Tensor, Tensor]]:
        for group, (stays, silent) in self.groups.values():
            for share in group.tensors:
                if share.name == name:
                    yield share, group, stays, silent

    def value(self, name: str, value: Tensor) -> Tensor:
        """A tensor without the indices of removed units."""
        if name in self.biases:
            value = value + self.biases[name].to(value)
        for share, group, _, silent in self.shares(name):
            if name in group.consumers and share.dim not in group.row_dims.get(
                name, ()
            ):
                value = self._columns(share, group, silent, value)
        for share, _, stays, _ in self.shares(name):
            index = kept_indices(share, stays).to(value.device)
            value = value.index_select(share.dim, index)
        return value

    def rows(self, call: fx.Node, constant: Tensor) -> Tensor:
        """What a call adds to its outputs, without those that are removed."""
        weight = argument(call, 1, "weight")
        assert isinstance(weight, fx.Node)
        for share, group, stays, _ in self.shares(str(weight.target)):
            if share.dim == 0 and share.dim in group.row_dims.get(share.name, ()):
                index = kept_indices(share, stays).to(constant.device)
                constant = constant.index_select(0, index)
        return constant

    def _columns(
        self, share: Share, group: UnitGroup, silent: Tensor, value: Tensor
    ) -> Tensor:
        """Columns times their gates; zero for units that only fill up a width."""
        gate = self.gates.get(group.name, torch.ones(group.size)).cpu().clone()
        gate[silent] = 0.0
        if bool((gate == 1).all()):
            return value
        factor = torch.cat([gate, gate.new_ones(1)])[share.owner].to(value)
        shape = [1] * value.ndim
        shape[share.dim] = -1
        return value * factor.view(shape)


def _gates(graph_module: fx.GraphModule, units: UnitMap) -> dict[str, Tensor]:
    found = [m for m in graph_module._modules.values() if isinstance(m, UnitGates)]
    if not found:
        return {}
    gates = found[0]
    return {name: gates[name].detach() for name in gates.names if name in units.groups}


def _copied(
    graph_module: fx.GraphModule, lines: Lines
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """The graph without its gates, with its sizes rewritten; its nodes by the old."""
    graph = fx.Graph()
    twin: dict[Any, Any] = {}
    for node in graph_module.graph.nodes:
        if node.target in (gated, scored):
            twin[node] = twin[node.args[0]]
            continue
        twin[node] = graph.node_copy(node, lambda n: twin[n])
        resize(node, twin[node], lines)
    return graph, twin


def _add_bias(small: fx.GraphModule, call: fx.Node, value: Tensor) -> None:
    """Gives a layer without a bias the constant of the units in front of it."""
    weight = argument(call, 1, "weight")
    assert isinstance(weight, fx.Node)
    path, _, leaf = str(weight.target).rpartition(".")
    free = leaf == "weight" and path and not hasattr(small.get_submodule(path), "bias")
    name = f"{path}.bias" if free else f"{weight.target}_constant"
    place(small, name, nn.Parameter(value))
    with small.graph.inserting_before(call):
        read = small.graph.get_attr(name)
    read.meta["module"] = path
    if len(call.args) > 2:
        call.args = (*call.args[:2], read, *call.args[3:])
    else:
        call.kwargs = {**call.kwargs, "bias": read}


def _size(node: fx.Node, lines: Lines) -> tuple[int, ...] | None:
    """What a node's value is to be, where units divide it."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not lines.layout.get(node.name):
        return None
    sizes = [hint(size) for size in value.shape]
    for dim, stay in lines.stays(node).items():
        sizes[dim] = int(stay.sum())
    return tuple(sizes)


def _check(small: fx.GraphModule, sizes: Mapping[fx.Node, Any]) -> None:
    """Runs the new graph once: each value is of the size that was planned."""

    def visit(node: fx.Node, values: Values) -> None:
        wanted, value = sizes.get(node), values[node]
        if wanted is not None and isinstance(value, Tensor) and value.shape != wanted:
            raise CaptureError(
                f"{node.name} would be of shape {tuple(value.shape)} where {wanted} is "
                "left of it; this graph cannot be shrunk"
            )

    run_on_zeros(small, visit)
