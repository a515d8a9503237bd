"""A model whose layers have tried their forms, before it is known which are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sparsefx.lowering.inference_graph import Signature, graph_of
from sparsefx.lowering.layer_trial import Asked, Trial
from sparsefx.lowering.lower_graph import GraphSearch, search_graph
from sparsefx.lowering.lower_modules import search_modules, with_layers
from sparsefx.lowering.lowered import Lowered
from sparsefx.lowering.lowering_report import LayerChoice, Lowering, choice
from sparsefx.tracing.example_calls import as_call


@dataclass(frozen=True, slots=True)
class Made:
    """A lowered model before it is judged.

    Attributes:
        module: the model's own Python with the chosen layers.
        planned: its graph with them, and how it is called; None where it has none.
        rows: of the report.
    """

    module: nn.Module
    planned: tuple[fx.GraphModule, Signature] | None
    rows: tuple[LayerChoice, ...]

    def lowered(self, report: Lowering | None = None) -> Lowered:
        """What `sparsefx.lower` returns, with these rows in its report."""
        if report is None:
            report = Lowering((), "", "", {}, "", False)
        report = dataclasses.replace(report, layers=self.rows)
        return Lowered(self.module, report, report.compiled, self.planned)


@dataclass(frozen=True, slots=True)
class ModelSearch:
    """What became of the layers of a model.

    Attributes:
        model: it is not changed.
        trials: one for each layer.
        graph: of the whole model, and how it is called; None where it has none.
    """

    model: nn.Module
    trials: Sequence[Trial]
    graph: tuple[GraphSearch, Signature] | None

    def made(self, trials: Sequence[Trial]) -> Made:
        """The model with these trials' layers."""
        if self.graph is None:
            rows = tuple(choice(trial, {}) for trial in trials)
            return Made(with_layers(self.model, trials), None, rows)
        found, signature = self.graph
        rows = tuple(choice(trial, found.before) for trial in trials)
        module = with_layers(self.model, trials, found.before)
        return Made(module, (found.with_layers(trials), signature), rows)


def search_model(model: nn.Module, example_inputs: Any, asked: Asked) -> ModelSearch:
    """Lets the layers of a model in eval mode try their forms on example inputs.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 4))
        >>> _ = net[0].weight.data.triu_()
        >>> found = search_model(net, (torch.ones(1, 4),), Asked("csr", 1))
        >>> found.made(found.trials).rows[0].chosen
        'csr'
    """
    call = as_call(example_inputs)
    cut = asked.target in ("auto", "removal")
    planned = graph_of(model, example_inputs, shrink=cut)
    if isinstance(planned, str):
        return ModelSearch(model, search_modules(model, call, asked), None)
    graph, signature = planned
    tensors = signature.tensors(*call)
    assert tensors is not None
    original = dict(model.named_parameters(remove_duplicate=False))
    found = search_graph(graph, tensors, asked, original)
    return ModelSearch(model, found.trials, (found, signature))
