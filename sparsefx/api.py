"""The life cycle: transform, step, report, finalize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsefx.errors import CaptureError
from sparsefx.masking.masked_module import unwrapped as unwrapped
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.costs.cost_table import CostTable
from sparsefx.passes.drawing.draw_graph import draw as draw_graphs
from sparsefx.tracing.capture import Capture, capture
from sparsefx.tracing.offered_inputs import offered
from sparsefx.training.live_model import finalize as finalize
from sparsefx.training.live_model import graphs as graphs
from sparsefx.training.live_model import masks as masks
from sparsefx.training.live_model import report as report
from sparsefx.training.live_model import sites as sites
from sparsefx.training.live_model import step as step
from sparsefx.training.live_model import transform as transform


def draw(module: nn.Module, path: str | Path) -> None:
    """Draws the rewritten graphs into an ``.svg``, ``.dot`` or ``.html`` file.

    Example:
        >>> import torch
        >>> sparse = transform(nn.Linear(4, 2), example_inputs=(torch.ones(3, 4),))
        >>> draw(sparse, "graph.svg")
    """
    draw_graphs(graphs(module), path)


def costs(
    model: nn.Module,
    example_inputs: Any = None,
    sizes: Mapping[str, int] | None = None,
) -> CostTable:
    """What any model costs, layer by layer, symbolic and in numbers.

    Args:
        model: a module; it is left as it was.
        example_inputs: as for `transform`.
        sizes: other numbers for the symbols than the example's, ``{"batch": 32}``.

    Example:
        >>> import torch
        >>> table = costs(nn.Linear(4, 2), (torch.ones(3, 4),))
        >>> table.totals()["macs"]["total"], str(table["weight"].macs)
        (24, '8*batch')
    """
    inputs = offered(model) if example_inputs is None else example_inputs
    if inputs is None:
        raise CaptureError(
            f"costs of {type(model).__name__} need example_inputs: MACs depend on the "
            "sizes; give a tuple of positional inputs, such as (torch.zeros(1, 3, 224, "
            "224),), or a dict of keyword inputs"
        )
    found: Capture = capture(model, inputs, verify=False)
    return cost_table(model, found.priced, found.observed).at(sizes or {})
