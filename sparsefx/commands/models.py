"""Commands on a model: its costs, its graphs, a plan, what lowering would gain."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparsefx
from sparsefx.commands.answer import Answer, Plain
from sparsefx.commands.given import arguments_of, budget_of, example_inputs, sizes_of
from sparsefx.commands.given_model import load_model
from sparsefx.errors import CaptureError, SparsefxError
from sparsefx.lowering.aot_package import package
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.drawing.draw_graph import draw as draw_graphs
from sparsefx.tracing.offered_inputs import offered


def costs(arguments: Namespace) -> Answer:
    """What a model costs, by layer."""
    sizes, inputs = sizes_of(arguments.size), example_inputs(arguments.input)
    return sparsefx.costs(_model(arguments), inputs, sizes)


def capture(arguments: Namespace) -> Answer:
    """The graphs a model becomes, what stays Python and why."""
    model = _model(arguments)
    return sparsefx.capture(model, _inputs(model, arguments))


def plan(arguments: Namespace) -> Answer:
    """What a policy would keep of a model as it is."""
    return sparsefx.report(_sparse(_model(arguments), arguments))


def draw(arguments: Namespace) -> Answer:
    """The graphs, with a policy the rewritten ones, as a picture."""
    model = _model(arguments)
    if arguments.policy or arguments.budget:
        graphs = sparsefx.graphs(_sparse(model, arguments))
    else:
        graphs = sparsefx.capture(model, _inputs(model, arguments)).graphs
    draw_graphs(graphs, arguments.out)
    return Plain(f"written to {arguments.out}", {"path": arguments.out})


def lower(arguments: Namespace) -> Answer:
    """What a model with zeros gains on this machine, layer by layer.

    With a policy or a budget the zeros are those that masks would leave now: what
    training to that budget would gain, before any training.
    """
    model = _model(arguments).eval()
    inputs = _inputs(model, arguments)
    if arguments.weights:
        model = _with_weights(model, arguments.weights)
    if arguments.policy or arguments.budget:
        model = sparsefx.finalize(_sparse(model, arguments))
    fast = sparsefx.lower(
        model,
        inputs,
        arguments.target,
        precision=arguments.precision,
        tolerance=arguments.tolerance,
        compile=not arguments.no_compile,
    )
    if arguments.out:
        package(fast, inputs, arguments.out)
    return fast.report


def _model(arguments: Namespace) -> nn.Module:
    return load_model(arguments.model, arguments_of(arguments.kwargs))


def _inputs(model: nn.Module, arguments: Namespace) -> Any:
    """What was given, or what the model offers."""
    inputs = example_inputs(arguments.input)
    inputs = offered(model) if inputs is None else inputs
    if inputs is None:
        raise CaptureError(
            f"{arguments.model} does not say what it takes: add --input, such as "
            "--input 1,3,224,224 or --input 1,128:int64"
        )
    return inputs


def _sparse(model: nn.Module, arguments: Namespace) -> nn.Module:
    more: dict[str, Any] = (
        {"budget": budget_of(arguments.budget)} if arguments.budget else {}
    )
    policy = arguments.policy or "cost_budget"
    inputs = example_inputs(arguments.input)
    return sparsefx.transform(model, policy, example_inputs=inputs, **more)


def _with_weights(model: nn.Module, path: str) -> nn.Module:
    """With what `sparsefx.save` or ``torch.save`` wrote; no code in it is run."""
    if Path(path).suffix == ".safetensors":
        loaded = sparsefx.load(model, path)
        return sparsefx.finalize(loaded) if CHILD in loaded._modules else loaded
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of whatever the file is
        raise SparsefxError(
            f"weights {path} cannot be loaded: {type(error).__name__}: {error}; write "
            "them with sparsefx.save, or torch.save(model.state_dict(), path)"
        ) from None
    return model
