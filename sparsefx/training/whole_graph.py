"""A model as one graph of its own with the model's call signature, to be rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from sparsefx.errors import CaptureError
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.graphs.owned_graph import own_graph
from sparsefx.tracing.call_signature import with_signature
from sparsefx.tracing.capture import capture
from sparsefx.tracing.example_calls import as_call
from sparsefx.tracing.offered_inputs import offered

Totals = Mapping[str, Mapping[str, float]]


def whole_graph(model: nn.Module, example_inputs: Any) -> tuple[fx.GraphModule, Totals]:
    """The graph, with tensors of its own, and what the model costs.

    Args:
        model: left as it was.
        example_inputs: as for `sparsefx.transform`.

    Returns:
        The graph, and by cost name the ``total``, ``maskable`` and ``fixed`` cost.

    Raises:
        CaptureError: the model is not one graph, or no inputs are known.

    Example:
        >>> import torch
        >>> graph, totals = whole_graph(nn.Linear(4, 2), (torch.ones(3, 4),))
        >>> graph(torch.ones(3, 4)).shape, int(totals["macs"]["total"])
        (torch.Size([3, 2]), 24)
    """
    inputs = offered(model) if example_inputs is None else example_inputs
    if inputs is None:
        raise CaptureError(
            f"rewriting {type(model).__name__} needs example_inputs, to follow the "
            "sizes of its layers; give a tuple of inputs such as (x,), or a dict"
        )
    found = capture(model, inputs)
    if not found.whole or len(found.graphs) > 1:
        reason = next(iter(found.reasons.values()), "its modes run different code")
        raise CaptureError(
            f"{type(model).__name__} is not one graph ({reason}), which a rewrite of "
            "its structure needs; transform it without rewrite"
        )
    totals = cost_table(model, found.priced, found.observed).totals()
    graph = own_graph(found.graphs[""])
    call = as_call(inputs)
    return with_signature(graph, found.programs[""].output, model, call), totals
