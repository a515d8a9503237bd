"""Lowering of one graph: it runs once, and each layer tries its forms on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparsefx.lowering.feature_major_attention import feature_major_attention, is_faster
from sparsefx.lowering.graph_layers import layer_at
from sparsefx.lowering.layer_forms import CompressedLayer
from sparsefx.lowering.layer_trial import Trial, against_uncut, try_layer
from sparsefx.tracing.graph_module import assembled, held_by

Shapes = dict[str, tuple[int, ...]]


def lower_graph(
    module: fx.GraphModule,
    inputs: Sequence[Tensor],
    target: str,
    rounds: int,
    *,
    fused: bool = False,
    original: Mapping[str, Tensor] | None = None,
) -> tuple[fx.GraphModule, list[Trial], Shapes]:
    """The graph with each layer in its fastest form, and how that came about.

    Args:
        module: a plain graph; it is not changed.
        inputs: its inputs.
        target: ``auto`` or the form to force.
        rounds: samples of each timing.
        fused: as for `try_layer`.
        original: weights by name, where the graph has lost some of them already.

    Returns:
        The graph, a trial for each layer, and the shapes that cut weights had before.

    Example:
        >>> from sparsefx.lowering.inference_graph import graph_of
        >>> net = nn.Sequential(nn.Linear(4, 4))
        >>> _ = net[0].weight.data.triu_()
        >>> x = torch.ones(1, 4)
        >>> made, trials, _ = lower_graph(graph_of(net, (x,))[0], [x], "csr", 1)
        >>> trials[0].chosen, torch.allclose(made(x), net(x))
        ('csr', True)
    """
    dense = {**held_by(module), **(original or {})}
    before = {
        name: tuple(dense[name].shape)
        for name, value in held_by(module).items()
        if isinstance(value, Tensor) and value.shape != dense[name].shape
    }
    module = assembled(copy.deepcopy(module.graph), held_by(module), module)
    search = _Search(module, target, rounds, fused, {k: dense[k] for k in before})
    with torch.no_grad():
        search.run(*inputs)
    return search.rewritten(), search.trials, before


class _Search(fx.Interpreter):
    """Runs the graph once; at each layer it tries the forms on the layer's input."""

    def __init__(
        self,
        module: fx.GraphModule,
        target: str,
        rounds: int,
        fused: bool,
        dense: Mapping[str, Tensor],
    ) -> None:
        super().__init__(module)
        self.target = target
        self.rounds = rounds
        self.fused = fused
        self.dense = dense
        self.held = held_by(module)
        self.trials: list[Trial] = []
        self.attentions: list[fx.Node] = []
        self.nodes: list[tuple[fx.Node, fx.Node, nn.Module]] = []

    def run_node(self, n: fx.Node) -> Any:
        found = layer_at(n, self.held)
        if found is not None:
            x = self.env[found.input]
            trial = try_layer(
                found.layer, x, self.target, self.rounds, fused=self.fused
            )
            before = self.dense.get(trial.name)
            if before is not None:
                trial = against_uncut(trial, found.layer, before, x, self.rounds)
            self.trials.append(trial)
            if trial.module is not None:
                self.nodes.append((n, found.input, trial.module))
        elif n.target is functional.scaled_dot_product_attention and self.fused:
            q, k, v = (self.env[x] for x in n.all_input_nodes[:3])
            if len(n.all_input_nodes) == 3 and is_faster(n, q, k, v, self.rounds):
                self.attentions.append(n)
        return super().run_node(n)

    def rewritten(self) -> fx.GraphModule:
        """The graph with the chosen forms in place of the dense layers."""
        assert isinstance(self.module, fx.GraphModule)
        graph = self.module.graph
        held = dict(self.held)
        for node, source, module in self.nodes:
            with graph.inserting_before(node):
                name = f"sparse_{node.name}"
                held[name] = module
                made = graph.create_node("call_module", name, (source,))
            made.meta = dict(node.meta)
            node.replace_all_uses_with(made)
            graph.erase_node(node)
        compressed = any(isinstance(x[2], CompressedLayer) for x in self.nodes)
        for node in self.attentions if compressed else ():
            node.target = feature_major_attention
        return assembled(graph, held, name="Lowered").eval()
