"""Graphs of the networks of units, and their gates."""

import torch
from torch import Tensor, fx, nn

import sparsefx
from sparsefx.passes import SplitAttention
from sparsefx.passes.gate_units import UnitGates
from tests.unit_networks import images


def graph_of(model: nn.Module, x: Tensor | None = None) -> fx.GraphModule:
    x = images(dtype=next(model.parameters()).dtype) if x is None else x
    return SplitAttention()(sparsefx.capture(model, (x,)).graphs[""])


def gates_of(graph: fx.GraphModule) -> UnitGates:
    found = graph.get_submodule("_units")
    assert isinstance(found, UnitGates)
    return found


def drawn(graph: fx.GraphModule, seed: int = 0) -> None:
    """Another number of units in every group."""
    gates, generator = gates_of(graph), torch.Generator().manual_seed(seed)
    for index, name in enumerate(gates.names):
        size = len(gates[name])
        keep = torch.zeros(size)
        count = max(1, size * (index % 3 + 1) // 4)
        keep[torch.randperm(size, generator=generator)[:count]] = 1
        gates.set(name, keep)
