"""What a sparse model is built from: the graphs of a model, or a rewritten one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from sparsefx.errors import CaptureError
from sparsefx.policies.policy import Policy
from sparsefx.reports.progress import progress
from sparsefx.tracing.call_signature import with_signature
from sparsefx.tracing.capture import Capture, capture
from sparsefx.tracing.example_calls import as_calls
from sparsefx.tracing.offered_inputs import offered


@dataclass(frozen=True, slots=True)
class Start:
    """What a sparse model is built from.

    Attributes:
        found: the graphs of the model, or of the one that was made of it.
        policy: what is asked of that one.
        original: where one was made, what the model cost as it was given, by cost
            name: all of it if units or tokens are dropped, else what is maskable.
    """

    found: Capture
    policy: Policy
    original: Mapping[str, float] = field(default_factory=dict)


def recorded(model: nn.Module, example_inputs: Any) -> Capture:
    """The graphs of a model, on what it offers where no inputs are given.

    Raises:
        CaptureError: the model does not run on the inputs that were given.
    """
    with progress("transform") as begin:
        begin("recording graphs")
        if example_inputs is not None:
            return capture(model, example_inputs)
        try:
            return capture(model, offered(model))
        except CaptureError:  # it offers what does not fit: as if it offered nothing
            return capture(model)


def whole_graph(model: nn.Module, example_inputs: Any) -> Capture:
    """Records a model whose graph is to be rewritten.

    Args:
        model: left as it was.
        example_inputs: as for `sparsefx.transform`.

    Raises:
        CaptureError: the model is not one graph, or no inputs are known.
    """
    found = recorded(model, example_inputs)
    if found.inputs is None:
        raise CaptureError(
            f"rewriting {type(model).__name__} needs example_inputs, to follow the "
            "sizes of its layers; give a tuple of inputs such as (x,), or a dict"
        )
    if not found.whole or len(found.graphs) > 1:
        reason = next(iter(found.reasons.values()), "its modes run different code")
        raise CaptureError(
            f"{type(model).__name__} is not one graph ({reason}), which a rewrite of "
            "its structure needs; transform it without rewrite"
        )
    limits = found.programs[""].limits
    if limits:
        warnings.warn(
            f"{type(model).__name__} runs other code unless {' and '.join(limits)}, "
            "which one rewritten graph cannot do: give the new model such batches only",
            UserWarning,
            stacklevel=4,
        )
    return found


def as_model(made: fx.GraphModule, found: Capture) -> Capture:
    """A rewritten graph as a model, recorded already: nothing else is in its forward.

    Args:
        made: what a pass made of the graph; it gets the model's call signature.
        found: `whole_graph` of the model.

    Example:
        >>> import torch
        >>> from sparsefx.passes.graphs.owned_graph import own_graph
        >>> found = whole_graph(nn.Linear(4, 2), (torch.ones(3, 4),))
        >>> new = as_model(own_graph(found.graphs[""]), found)
        >>> new.root(input=torch.ones(3, 4)).shape, len(new.graphs[""].graph.nodes)
        (torch.Size([3, 2]), 5)
    """
    program = found.programs[""]
    graph, (call, *_) = copy.deepcopy(made.graph), as_calls(found.inputs)
    root = with_signature(made, program.output, found.root, call)
    return Capture(root, {"": program.of(root, graph)}, inputs=found.inputs)
