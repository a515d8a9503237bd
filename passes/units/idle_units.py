"""Units that compute nothing but a constant, and where that constant goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.units.unit_map import UnitGroup, UnitMap
from sparsefx.torch_internals import hint
from sparsefx.tracing.gradient_regions import closed_on_error
from sparsefx.tracing.operations import called
from sparsefx.tracing.preserve import in_eval

_CALLS = frozenset(["linear", *(f"conv{n}d" for n in (1, 2, 3))])
_Range = tuple[Tensor, Tensor]  # the smallest and the largest value of each index


@dataclass(slots=True, eq=False)
class Idle:
    """The idle units of one group.

    Attributes:
        units: bool, one entry a unit.
        folds: by call that uses them, what each unit's constant adds to each of its
            outputs: (outputs, units).
    """

    units: Tensor
    folds: dict[fx.Node, Tensor] = field(default_factory=dict)


def idle_units(
    graph_module: fx.GraphModule, units: UnitMap, held: Collection[str] = ()
) -> dict[str, Idle]:
    """Finds units that the model does not need.

    A unit is idle if every column that uses it is zero, or if the rows that compute it
    are zero and all that is left is a constant (a head's value bias, the activation of
    a neuron's bias) that can move into the bias of each layer behind it. The rows and
    columns of idle units then count as zero, which may leave more units idle.

    Args:
        graph_module: the graph, with recorded values.
        units: what `find_units` says of it.
        held: groups whose units are chosen by other means.
    """
    values = {
        name: value.detach().clone()
        for name, value in (
            *graph_module.named_parameters(remove_duplicate=False),
            *graph_module.named_buffers(remove_duplicate=False),
        )
    }
    found = {
        name: Idle(torch.zeros(group.size, dtype=torch.bool))
        for name, group in units.groups.items()
    }
    seen: dict[tuple[str, int], _Range] = {}
    fresh = True
    while fresh:
        fresh = False
        for name, group in units.groups.items():
            idle = found[name]
            if name in held or bool(idle.units.all()):
                continue
            new = ~(idle.units | _uses_any(group, values))
            empty = ~(idle.units | new | _computes_all(group, values))
            if bool(empty.any()):
                seen = seen or _ranges(graph_module, units)
                new |= _constant(graph_module, group, values, seen, empty, idle)
            if bool(new.any()):
                idle.units |= new
                _silence(group, values, new)
                fresh = True
    return found


def _used(group: UnitGroup, values: Mapping[str, Tensor], rows: bool) -> Any:
    """For each of a group's rows or columns: which units have entries, which others."""
    for share in group.tensors:
        is_row = share.dim in group.row_dims.get(share.name, ())
        column = not is_row and share.name in group.consumers
        if not (is_row if rows else column):
            continue
        lines = values[share.name].movedim(share.dim, 0).flatten(1)
        used, own = (lines != 0).any(1).cpu(), share.owner >= 0
        counts = torch.zeros(2, group.size, dtype=torch.int64)
        counts[0].index_add_(0, share.owner[own], used[own].long())
        counts[1].index_add_(0, share.owner[own], (~used[own]).long())
        yield counts > 0


def _uses_any(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """Units of which some column is not zero."""
    found = torch.zeros(group.size, dtype=torch.bool)
    for some, _ in _used(group, values, rows=False):
        found |= some
    return found


def _computes_all(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """Units none of whose rows (of a head's values, say) is zero."""
    found = torch.ones(group.size, dtype=torch.bool)
    for _, empty in _used(group, values, rows=True):
        found &= ~empty
    return found


def _silence(group: UnitGroup, values: Mapping[str, Tensor], gone: Tensor) -> None:
    """Makes the rows and columns of idle units zero."""
    for share in group.tensors:
        lines = (share.owner >= 0) & gone[share.owner]
        value = values[share.name]
        value.index_fill_(share.dim, lines.nonzero().flatten().to(value.device), 0)


def _constant(
    graph_module: fx.GraphModule,
    group: UnitGroup,
    values: Mapping[str, Tensor],
    seen: Mapping[tuple[str, int], _Range],
    suspects: Tensor,
    idle: Idle,
) -> Tensor:
    """The suspects that never change and can be folded; notes what they add."""
    by_name = {node.name: node for node in graph_module.graph.nodes}
    fixed = suspects.clone()
    folds: dict[fx.Node, Tensor] = {}
    for gate in group.gates:
        source = by_name[gate.name]
        low, high = seen[gate.name, gate.dim]
        size = torch.maximum(low.abs(), high.abs()).amax().clamp(min=1e-30)
        steady = (high - low <= 64 * torch.finfo(low.dtype).eps * size).cpu()
        own = gate.owner >= 0
        moving = torch.zeros(group.size, dtype=torch.int64)
        moving.index_add_(0, gate.owner[own], (~steady[own]).long())
        fixed &= moving == 0
        for call in source.users:
            weight = _weight_of(call, values)
            if weight is None:
                return torch.zeros_like(fixed)
            said = ((low + high) / 2).to(weight)
            part = weight.new_zeros(weight.shape[0], group.size)
            index = gate.owner[own].to(weight.device)
            own_there = own.to(weight.device)
            summed = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
            part.index_add_(1, index, (summed * said)[:, own_there])
            if _pads(call):  # the border has zeros where the unit has its constant
                said_by = torch.zeros(group.size, dtype=torch.int64)
                said_by.index_add_(0, gate.owner[own], (said != 0).cpu()[own].long())
                fixed &= said_by == 0
            if not _own_bias(call):
                fixed &= (part == 0).all(0).cpu()
            folds[call] = folds.get(call, 0) + part
    if not group.gates:
        return torch.zeros_like(fixed)
    for call, part in folds.items():
        kept = torch.where(fixed.to(part.device), part, torch.zeros_like(part))
        idle.folds[call] = idle.folds.get(call, 0) + kept
    return fixed


def _weight_of(call: fx.Node, values: Mapping[str, Tensor]) -> Tensor | None:
    """The weight of a layer whose outputs can take constants over."""
    weight = argument(call, 1, "weight")
    grouped = called(call) != "linear" and argument(call, 6, "groups") not in (None, 1)
    if called(call) not in _CALLS or grouped:
        return None
    plain = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return values[str(weight.target)] if plain else None  # type: ignore[attr-defined]


def _pads(call: fx.Node) -> bool:
    if called(call) == "linear":
        return False
    padding = argument(call, 4, "padding")
    sizes = padding if isinstance(padding, (tuple, list)) else (padding,)
    return any(size not in (None, 0, "valid") for size in sizes)


def _own_bias(call: fx.Node) -> bool:
    """Whether the bias is this call's alone, or there is none and one can be made."""
    bias = argument(call, 2, "bias")
    if bias is None:
        return True
    if not isinstance(bias, fx.Node) or bias.op != "get_attr":
        return False
    reads = [n for n in call.graph.nodes if n.op == "get_attr"]
    users = [u for n in reads if n.target == bias.target for u in n.users]
    return users == [call]


def _ranges(
    graph_module: fx.GraphModule, units: UnitMap
) -> dict[tuple[str, int], _Range]:
    """The values of all gated nodes on random inputs, index by index of a dimension."""
    wanted: dict[str, set[int]] = {}
    for group in units.groups.values():
        for gate in group.gates:
            wanted.setdefault(gate.name, set()).add(gate.dim)
    seen: dict[tuple[str, int], _Range] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            for dim in wanted.get(n.name, ()):
                lines = out.movedim(dim, 0).flatten(1)
                low, high = lines.amin(1), lines.amax(1)
                before = seen.get((n.name, dim), (low, high))
                low, high = (
                    torch.minimum(low, before[0]),
                    torch.maximum(high, before[1]),
                )
                seen[n.name, dim] = low, high
            return out

    with torch.no_grad(), in_eval(graph_module), closed_on_error():
        for seed in (0, 1):
            drawn = torch.Generator().manual_seed(seed)
            Watch(graph_module).run(*_inputs(graph_module.graph, drawn))
    return seen


def _inputs(graph: fx.Graph, drawn: torch.Generator) -> list[Tensor]:
    """Random inputs of the recorded sizes."""
    found = []
    for node in graph.nodes:
        if node.op == "placeholder":
            example = node.meta["val"]
            sizes = [hint(size) for size in example.shape]
            if example.dtype.is_floating_point:
                value = torch.randn(sizes, generator=drawn).to(example.dtype)
            else:
                value = torch.randint(0, 2, sizes, generator=drawn).to(example.dtype)
            found.append(value.to(getattr(example, "fake_device", example.device)))
    return found
