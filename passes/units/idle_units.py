"""Units that compute nothing but a constant, and where that constant goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.passes.units.unit_map import Share, UnitGroup, UnitMap
from sparsefx.torch_internals import hint
from sparsefx.tracing.gradient_regions import closed_on_error
from sparsefx.tracing.operations import called


@dataclass(frozen=True, slots=True, eq=False)
class Idle:
    """The idle units of one group.

    Attributes:
        units: bool, one entry a unit.
        folds: by name of a bias, what each unit's constant adds to it: (bias, units).
    """

    units: Tensor
    folds: Mapping[str, Tensor] = field(default_factory=dict)


def idle_units(graph_module: fx.GraphModule, units: UnitMap) -> dict[str, Idle]:
    """Finds units that the model does not need.

    A unit is idle if every column that uses it is zero, or if the rows that compute it
    are zero and all that is left is a constant (a head's value bias, the activation of
    a neuron's bias) that can move into the bias of each linear map behind it.
    """
    values: dict[str, Tensor] = {}
    values |= dict(graph_module.named_parameters(remove_duplicate=False))
    values |= dict(graph_module.named_buffers(remove_duplicate=False))
    found, suspects = {}, {}
    for group in units.groups.values():
        unused = _all_zero(group, group.consumers, values, rows=False)
        empty = _any_zero_rows(group, values) & ~unused
        found[group.name] = Idle(unused)
        if bool(empty.any()):
            suspects[group.name] = empty
    if suspects:
        _fold(graph_module, units, values, suspects, found)
    return found


def _lines(share: Share, value: Tensor, size: int) -> Tensor:
    """Whether all of a tensor that each unit owns is zero."""
    flat = value.detach().movedim(share.dim, 0).reshape(value.shape[share.dim], -1)
    used = (flat != 0).any(1).cpu()
    own = share.owner >= 0
    counts = torch.zeros(size, dtype=torch.int64)
    return counts.index_add(0, share.owner[own], used[own].long()) == 0


def _all_zero(
    group: UnitGroup, names: Any, values: Mapping[str, Tensor], *, rows: bool
) -> Tensor:
    zero = torch.ones(group.size, dtype=torch.bool)
    for share in group.tensors:
        is_row = share.dim in group.row_dims.get(share.name, ())
        if share.name in names and is_row == rows:
            zero &= _lines(share, values[share.name], group.size)
    return zero


def _any_zero_rows(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """Units for which some part (the values of a head, a neuron's rows) is all zero."""
    zero = torch.zeros(group.size, dtype=torch.bool)
    for share in group.tensors:
        if share.dim not in group.row_dims.get(share.name, ()):
            continue
        flat = values[share.name].detach().movedim(share.dim, 0)
        empty = ~(flat.reshape(flat.shape[0], -1) != 0).any(1).cpu()
        own = empty & (share.owner >= 0)
        zero[share.owner[own]] = True
    return zero


def _fold(
    graph_module: fx.GraphModule,
    units: UnitMap,
    values: Mapping[str, Tensor],
    suspects: Mapping[str, Tensor],
    found: dict[str, Idle],
) -> None:
    """Measures the suspects on random inputs; folds those that never change."""
    uses = _uses(graph_module, units, suspects)
    wanted = {node.args[0] for nodes in uses.values() for node in nodes}
    runs = [_run(graph_module, wanted, seed) for seed in (0, 1)]
    for name, empty in suspects.items():
        group, fixed = units.groups[name], empty.clone()
        folds: dict[str, Tensor] = {}
        gates = {gate.name: gate for gate in group.gates}
        for node in uses[name]:
            share = gates[node.args[0].name]
            lines = [
                run[node.args[0]].movedim(share.dim, -1).flatten(0, -2) for run in runs
            ]
            both = torch.cat(lines)
            spread = both.amax(0) - both.amin(0)
            size = both.abs().amax().clamp(min=1e-30)
            steady = (spread <= 64 * torch.finfo(both.dtype).eps * size).cpu()
            own = share.owner >= 0
            moving = torch.zeros(group.size, dtype=torch.int64).index_add(
                0, share.owner[own], (~steady[own]).long()
            )
            fixed &= moving == 0
            weight, bias = values[str(node.args[1].target)], _bias(node)
            constant = both.mean(0)
            per_unit = weight.detach().new_zeros(weight.shape[0], group.size)
            per_unit.index_add_(
                1,
                share.owner[own].to(weight.device),
                (weight.detach() * constant)[:, own.to(weight.device)],
            )
            if bias is None:
                fixed &= (per_unit == 0).all(0).cpu()
            else:
                folds[bias] = folds.get(bias, 0) + per_unit
        fixed &= torch.tensor([bool(uses[name])])
        kept = {bias: part * fixed.to(part) for bias, part in folds.items()}
        found[name] = Idle(found[name].units | fixed, kept)


def _bias(node: fx.Node) -> str | None:
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return str(bias.target) if isinstance(bias, fx.Node) else None


def _uses(
    graph_module: fx.GraphModule, units: UnitMap, suspects: Mapping[str, Tensor]
) -> dict[str, list[Any]]:
    """The linear maps that use each group, if nothing else does."""
    by_name = {node.name: node for node in graph_module.graph.nodes}
    found: dict[str, list[Any]] = {}
    for name in suspects:
        users = [
            user
            for gate in units.groups[name].gates
            for user in by_name[gate.name].users
        ]
        plain = all(
            called(user) == "linear"
            and isinstance(user.args[1], fx.Node)
            and user.args[1].op == "get_attr"
            for user in users
        )
        found[name] = users if plain else []
    return found


def _run(
    graph_module: fx.GraphModule, wanted: set[Any], seed: int
) -> dict[fx.Node, Tensor]:
    """Values of some nodes on random inputs, in eval mode."""
    drawn = torch.Generator().manual_seed(seed)
    inputs = []
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            example = node.meta["val"]
            sizes = [hint(size) for size in example.shape]
            if example.dtype.is_floating_point:
                value = torch.randn(sizes, generator=drawn).to(example.dtype)
            else:
                value = torch.randint(0, 2, sizes, generator=drawn).to(example.dtype)
            inputs.append(value.to(getattr(example, "fake_device", example.device)))
    seen: dict[fx.Node, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            if n in wanted:
                seen[n] = out.detach()
            return out

    with torch.no_grad(), closed_on_error():
        Watch(graph_module).run(*inputs)
    return seen
