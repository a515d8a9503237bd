"""Puts a gate on every unit: one number a head, neuron or channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from sparsefx.passes.find_units import find_units
from sparsefx.passes.interpret_tags import called
from sparsefx.rewriting import Writer
from sparsefx.units import Share, UnitMap

PATH = "_units"
_SAME = frozenset("view reshape flatten transpose permute contiguous clone".split())


class UnitGates(nn.Module):
    """One vector a group of units; 1 keeps a unit, 0 removes what it computes.

    Buffers ``gate_0``, ``gate_1``, ... are the gates, in the order of ``names``;
    ``owner_...`` say which gate each index of a value reads.

    Example:
        >>> gates = UnitGates(["fc.neurons"], [4])
        >>> gates["fc.neurons"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int]) -> None:  # noqa: D107
        super().__init__()
        self.names = tuple(names)
        for index, size in enumerate(sizes):
            self.register_buffer(f"gate_{index}", torch.ones(size))

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(f"gate_{self.names.index(name)}")

    def set(self, name: str, keep: Tensor) -> None:
        """Writes a group's gates.

        Args:
            name: of the group.
            keep: numbers or booleans, one a unit.
        """
        self[name].copy_(keep)


def gated(value: Tensor, gate: Tensor, owner: Tensor, dim: int) -> Tensor:
    """Multiplies each index of a dimension by the gate of the unit that owns it.

    Args:
        value: any shape.
        gate: one number a unit.
        owner: unit of each index of the dimension, -1 for none.
        dim: the dimension.

    Example:
        >>> x = torch.ones(2, 3)
        >>> gated(x, torch.tensor([0.5, 0.0]), torch.tensor([0, 1, -1]), 1)[0]
        tensor([0.5000, 0.0000, 1.0000])
    """
    known = torch.cat([gate, gate.new_ones(1)])  # -1 reads the last entry
    factor = known[owner].to(value.dtype)
    return value * factor.view(-1, *(1,) * (value.ndim - 1 - dim))


@dataclass(frozen=True, slots=True)
class GateUnits:
    """Multiplies what units compute by their gates, wherever it is used.

    Before, and after::

        act = gelu(fc1)                     act = gelu(fc1)
        y = F.linear(act, fc2_weight)       act_gated = gated(act, gate_0, owner_0, 2)
                                            y = F.linear(act_gated, fc2_weight)

    Gates of 1 leave every bit as it is; a gate of 0 removes the unit, with all that
    its biases add. The weights of a unit stay as they are under its gate.

    Attributes:
        units: what `find_units` says of the graph; found anew if None.
        kinds: which kinds of units get gates.

    Example:
        >>> from sparsefx.capture import capture
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = GateUnits()(capture(net, (torch.ones(3, 4),)).graphs[""])
        >>> gates_of(graph).names
        ('2.neurons',)
    """

    units: UnitMap | None = None
    kinds: tuple[str, ...] = field(default=("heads", "neurons", "channels"))

    def __call__(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place, recompiles, and returns the same module."""
        graph = graph_module.graph
        graph.lint()
        units = find_units(graph_module) if self.units is None else self.units
        chosen = [g for g in units.groups.values() if g.kind in self.kinds]
        gates = UnitGates([g.name for g in chosen], [g.size for g in chosen])
        device = next((p.device for p in graph_module.parameters()), None)
        graph_module._modules[PATH] = gates.to(device)
        by_name = {node.name: node for node in graph.nodes}
        start = next(n for n in graph.nodes if n.op != "placeholder")
        for index, group in enumerate(chosen):
            with graph.inserting_before(start):
                gate = _read(graph, f"gate_{index}", gates)
            for number, share in enumerate(group.gates):
                share = _upstream(by_name[share.name], share, units, group.name)
                name = f"owner_{index}_{number}"
                gates.register_buffer(name, share.owner.to(device))
                with graph.inserting_before(start):
                    owner = _read(graph, name, gates)
                _insert(by_name[share.name], gate, owner, share.dim)
        graph.lint()
        graph_module.recompile()
        return graph_module


def gates_of(graph_module: fx.GraphModule) -> UnitGates:
    """The gates that `GateUnits` has put into a graph."""
    found = graph_module._modules[PATH]
    assert isinstance(found, UnitGates)
    return found


def _read(graph: fx.Graph, name: str, gates: UnitGates) -> fx.Node:
    node = graph.create_node("get_attr", f"{PATH}.{name}", name=f"unit_{name}")
    node.meta |= {"module": PATH, "val": gates.get_buffer(name)}
    return node


def _insert(node: fx.Node, gate: fx.Node, owner: fx.Node, dim: int) -> None:
    users = list(node.users)
    with node.graph.inserting_after(node):
        new = Writer(node.graph, str(node.meta.get("module", "")))(
            gated, node, gate, owner, dim
        )
    for user in users:
        user.replace_input_with(node, new)


def _upstream(node: fx.Node, share: Share, units: UnitMap, group: str) -> Share:
    """The same gate before the batch is folded into another dimension."""
    index = list(units.groups).index(group)
    while isinstance(node.meta.get("val"), Tensor) and called(node) in _SAME:
        before = node.args[0]
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            break
        divided = units.layout.get(before.name, [{}])[0]
        dims = [
            d for d, (groups, _) in divided.items() if bool((groups == index).any())
        ]
        if len(dims) != 1:
            break
        groups, owner = divided[dims[0]]
        node = before
        share = Share(node.name, dims[0], torch.where(groups == index, owner, -1))
    return share
