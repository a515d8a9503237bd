"""Lowering of one graph: it runs once, and each layer tries its forms on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from sparsefx.lowering.feature_major_attention import feature_major_attention, is_faster
from sparsefx.lowering.fold_followers import fold_followers
from sparsefx.lowering.graph_layers import LayerNode, layer_at
from sparsefx.lowering.layer_forms import CompressedLayer
from sparsefx.lowering.layer_trial import Asked, Trial, against_uncut, try_layer
from sparsefx.reports.progress import progress
from sparsefx.tracing.graph_module import assembled, held_by


def search_graph(
    module: fx.GraphModule,
    inputs: Sequence[Tensor],
    asked: Asked,
    original: Mapping[str, Tensor] | None = None,
) -> GraphSearch:
    """Runs a graph once; at each layer its forms are tried on the layer's input.

    Args:
        module: a plain graph; it is not changed.
        inputs: its inputs.
        asked: what the layers may become.
        original: weights by name, where the graph has lost some of them already.

    Example:
        >>> from sparsefx.lowering.inference_graph import graph_of
        >>> nn = torch.nn
        >>> net = nn.Sequential(nn.Linear(4, 4))
        >>> _ = net[0].weight.data.triu_()
        >>> x = torch.ones(1, 4)
        >>> found = search_graph(graph_of(net, (x,))[0], [x], Asked("csr", 1))
        >>> made = found.with_layers(found.trials)
        >>> found.trials[0].chosen, torch.allclose(made(x), net(x))
        ('csr', True)
    """
    module = assembled(copy.deepcopy(module.graph), held_by(module), module)
    search = GraphSearch(module, asked, {**held_by(module), **(original or {})})
    number = sum(layer_at(n, search.held) is not None for n in module.graph.nodes)
    with torch.no_grad(), progress("lower", number) as search.begin:
        search.run(*inputs)
    return search


class GraphSearch(fx.Interpreter):
    """What became of the layers of a graph.

    Attributes:
        trials: one for each layer, in the graph's order.
        before: the shapes that cut weights had before.
    """

    def __init__(
        self, module: fx.GraphModule, asked: Asked, dense: Mapping[str, Tensor]
    ) -> None:
        """Nothing is run yet; ``dense`` has the weights as they were."""
        super().__init__(module)
        self.asked = asked
        self.begin: Callable[[str], None] = lambda name: None
        self.held = held_by(module)
        self.dense = {
            name: dense[name]
            for name, value in self.held.items()
            if isinstance(value, Tensor) and value.shape != dense[name].shape
        }
        self.before = {name: tuple(t.shape) for name, t in self.dense.items()}
        self.trials: list[Trial] = []
        self.layers: list[LayerNode] = []
        self.attentions: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node; a layer tries its forms first."""
        found = layer_at(n, self.held)
        if found is not None:
            self.begin(found.layer.name)
            x = self.env[found.input]
            trial = try_layer(found.layer, x, *self.asked)
            before = self.dense.get(trial.name)
            window = found.layer.window
            if before is not None and (window is None or window.groups == 1):
                trial = against_uncut(trial, found.layer, before, x, self.asked.rounds)
            self.trials.append(trial)
            self.layers.append(found)
        elif n.target is functional.scaled_dot_product_attention and self.asked.fused:
            q, k, v = (self.env[x] for x in n.all_input_nodes[:3])
            plain = len(n.all_input_nodes) == 3
            if plain and is_faster(n, q, k, v, self.asked.rounds):
                self.attentions.append(n)
        return super().run_node(n)

    def with_layers(self, trials: Sequence[Trial]) -> fx.GraphModule:
        """The graph with the chosen forms in place of the dense layers.

        Args:
            trials: one for each layer.
        """
        assert isinstance(self.module, fx.GraphModule)
        graph = copy.deepcopy(self.module.graph)
        twins = dict(zip(self.module.graph.nodes, graph.nodes, strict=True))
        held = dict(self.held)
        compressed = False
        for trial, layer in zip(trials, self.layers, strict=True):
            if trial.module is None:
                continue
            compressed |= isinstance(trial.module, CompressedLayer)
            node, source = twins[layer.node], twins[layer.input]
            with graph.inserting_before(node):
                name = f"sparse_{node.name}"
                held[name] = trial.module
                made = graph.create_node("call_module", name, (source,))
            made.meta = dict(node.meta)
            node.replace_all_uses_with(made)
            graph.erase_node(node)
            twins[layer.node] = made
        for attention in self.attentions if compressed else ():
            twins[attention].target = feature_major_attention
        fold_followers(graph, held)
        return assembled(graph, held, name="Lowered").eval()
