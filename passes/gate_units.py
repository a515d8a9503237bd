"""Puts a gate on every unit: one number a head, neuron or channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from sparsefx.masking.missing_share import tell_units_of_transforms
from sparsefx.passes.find_units import find_units
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.node_writer import Writer
from sparsefx.passes.units.unit_map import Share, UnitMap
from sparsefx.passes.units.unit_scores import growth, taylor
from sparsefx.torch_internals import transforming
from sparsefx.tracing.operations import called

PATH = "_units"
_SAME = frozenset(
    "view reshape ravel flatten transpose permute contiguous clone".split()
)


class UnitGates(nn.Module):
    """One vector a group of units; 1 keeps a unit, 0 removes what it computes.

    Buffers ``gate_0``, ``gate_1``, ... are the gates, in the order of ``names``;
    ``owner_...`` say which gate each index of a value reads.

    Example:
        >>> gates = UnitGates(["fc.neurons"], [4])
        >>> gates["fc.neurons"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(  # noqa: D107
        self, names: Sequence[str], sizes: Sequence[int], scored: bool = False
    ) -> None:
        super().__init__()
        self.names, self.scored = tuple(names), scored
        for index, size in enumerate(sizes):
            self.register_buffer(f"gate_{index}", torch.ones(size))
            if scored:
                for kind in ("taylor", "growth"):
                    zeros = torch.zeros(size)
                    self.register_buffer(f"{kind}_{index}", zeros, persistent=False)
                count = torch.zeros(())
                self.register_buffer(f"seen_{index}", count, persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        gate: Tensor = getattr(self, f"gate_{self.names.index(name)}")
        return gate

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


class _Scored(torch.autograd.Function):
    """`gated`, and on the way back the units' scores."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gate: Tensor, owner: Tensor, dim: int, *scores: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, gate, owner)
        ctx.dim, ctx.scores = dim, scores  # not saved: they change on the way back
        return gated(value, gate, owner, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        value, gate, owner = ctx.saved_tensors
        first, second, count = ctx.scores
        with torch.no_grad():  # also where a second derivative is asked for
            first += taylor(value, gradient, owner, len(gate), ctx.dim)
            second += growth(gradient, owner, len(gate), ctx.dim)
            count += 1
        return gated(gradient, gate, owner, ctx.dim), *(None,) * 6


def scored(
    value: Tensor,
    gate: Tensor,
    owner: Tensor,
    dim: int,
    first: Tensor,
    second: Tensor,
    count: Tensor,
) -> Tensor:
    """`gated`; the backward pass adds the units' scores up, see `unit_scores`.

    Args:
        value: samples first.
        gate: as for `gated`.
        owner: as for `gated`.
        dim: as for `gated`.
        first: where the first-order scores are added.
        second: where the growth scores are added.
        count: where backward passes are counted.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> sums = torch.zeros(3), torch.zeros(3), torch.zeros(())
        >>> scored(x, torch.ones(3), torch.arange(3), 1, *sums).sum().backward()
        >>> sums[0].tolist(), float(sums[2])
        ([1.0, 1.0, 1.0], 1.0)
    """
    if not (torch.is_grad_enabled() and value.requires_grad):
        return gated(value, gate, owner, dim)
    if transforming():
        tell_units_of_transforms(value)
        return gated(value, gate, owner, dim)
    found: Tensor = _Scored.apply(value, gate, owner, dim, first, second, count)  # type: ignore[no-untyped-call, unused-ignore]
    return found


@dataclass(frozen=True, slots=True)
class GateUnits(Pass):
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
        gates: where the gates are, and which groups get one; made anew if None.
        path: where the graph finds them.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = GateUnits()(capture(net, (torch.ones(3, 4),)).graphs[""])
        >>> graph.get_submodule("_units").names
        ('2.neurons',)
    """

    units: UnitMap | None = None
    kinds: tuple[str, ...] = field(default=("heads", "neurons", "channels"))
    gates: UnitGates | None = None
    path: str = PATH

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place and returns the same module."""
        graph = graph_module.graph
        units = find_units(graph_module) if self.units is None else self.units
        chosen = [g for g in units.groups.values() if g.kind in self.kinds]
        gates = self.gates
        if gates is None:
            gates = UnitGates([g.name for g in chosen], [g.size for g in chosen])
        else:
            chosen = [units.groups[name] for name in gates.names]
        device = next((p.device for p in graph_module.parameters()), None)
        if "." not in self.path:  # else in a module that the graph has already
            graph_module._modules[self.path] = gates.to(device)
        by_name = {node.name: node for node in graph.nodes}
        start = next(n for n in graph.nodes if n.op != "placeholder")
        for index, group in enumerate(chosen):
            reads = [f"gate_{index}"]
            if gates.scored:
                reads += [f"{kind}_{index}" for kind in ("taylor", "growth", "seen")]
            with graph.inserting_before(start):
                found = [_read(graph, name, gates, self.path) for name in reads]
            for number, share in enumerate(group.gates):
                share = _upstream(by_name[share.name], share, units, group.name)
                name = f"owner_{index}_{number}"
                gates.register_buffer(name, share.owner.to(device), persistent=False)
                with graph.inserting_before(start):
                    owner = _read(graph, name, gates, self.path)
                _insert(by_name[share.name], found, owner, share.dim)
        return graph_module


def _read(graph: fx.Graph, name: str, gates: UnitGates, path: str) -> fx.Node:
    label = f"unit_{name}"
    if name in gates._buffers:
        node = graph.create_node("get_attr", f"{path}.{name}", name=label)
    else:  # an attribute of the module, which a graph may read
        module = graph.create_node("get_attr", path, name=f"{label}_of")
        module.meta["module"] = path
        target = (module, name)
        node = graph.create_node("call_function", getattr, target, name=label)
    node.meta |= {"module": path, "val": getattr(gates, name)}
    return node


def _insert(node: fx.Node, reads: Sequence[fx.Node], owner: fx.Node, dim: int) -> None:
    users = list(node.users)
    with node.graph.inserting_after(node):
        write = Writer(node.graph, str(node.meta.get("module", "")))
        gate, *scores = reads
        target = scored if scores else gated
        new = write(target, node, gate, owner, dim, *scores)
    for user in users:
        user.replace_input_with(node, new)


def _upstream(node: fx.Node, share: Share, units: UnitMap, group: str) -> Share:
    """The same gate before the batch is folded into another dimension."""
    index = list(units.groups).index(group)
    best = share
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
        if isinstance(node.meta["val"].shape[dims[0]], int):  # else of one batch alone
            best = share
    return best
