"""The life cycle: transform, step, report, finalize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn

from sparsefx.errors import CaptureError
from sparsefx.masking.masked_module import duplicate, program_of, restore
from sparsefx.masking.masked_module import unwrapped as unwrapped
from sparsefx.masking.sparse_state import CHILD, SparseState
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.costs.cost_table import CostTable
from sparsefx.passes.drawing.draw_graph import draw as draw_graphs
from sparsefx.reports.report import Report
from sparsefx.tracing.capture import Capture, by_path, capture
from sparsefx.tracing.offered_inputs import offered
from sparsefx.training.current_report import reported
from sparsefx.training.live_model import _live
from sparsefx.training.live_model import masks as masks
from sparsefx.training.live_model import sites as sites
from sparsefx.training.live_model import step as step
from sparsefx.training.live_model import transform as transform
from sparsefx.training.token_life import reports_tokens
from sparsefx.training.unit_life import (
    finalize_units,
    gated_graphs,
    report_units,
    units_by,
)


@units_by(gated_graphs)
def graphs(module: nn.Module) -> dict[str, fx.GraphModule]:
    """The rewritten graphs by module path; the key "" is the whole model.

    A module whose modes run different code has two, under ``path:train`` and
    ``path:eval``. The graph of a second call is under ``:2``.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), example_inputs=(torch.ones(3, 4),))
        >>> "masked_weight" in graphs(sparse)[""].code
        True
    """
    root = unwrapped(module)
    _live(root, "graphs")
    found = {
        path: program
        for path, owner in root.named_modules()
        if (program := program_of(owner)) is not None
    }
    return by_path(root, found)


def draw(module: nn.Module, path: str | Path) -> None:
    """Draws the rewritten graphs into an ``.svg``, ``.dot`` or ``.html`` file.

    Example:
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


@reports_tokens
@units_by(report_units)
def report(module: nn.Module) -> Report:
    """What is kept where, at what cost, and what is not masked and why.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), budget=0.5,
        ...                    example_inputs=(torch.ones(1, 4),))
        >>> report(sparse).to_dict()["budgets"]
        {'macs': {'limit': 4, 'kept': 4, 'met': True}}
    """
    state, trainer = _live(module, "report")
    return reported(state, trainer)


@units_by(finalize_units)
def finalize(module: nn.Module) -> nn.Module:
    """The plain model: original classes and keys, masks baked into the weights.

    Dropped weights are exactly zero, kept ones carry their soft mask. The result
    shares nothing with ``module``, which can no longer be trained.

    Raises:
        MaskError: the module is not transformed, or has been finalized already.

    Example:
        >>> net = nn.Linear(4, 2, bias=False)
        >>> dense = finalize(transform(net, budget=0.5,
        ...                            example_inputs=(torch.ones(1, 4),)))
        >>> type(dense) is nn.Linear, int(dense.weight.count_nonzero())
        (True, 4)
    """
    root = unwrapped(module)
    _, trainer = _live(root, "finalize")
    dense = duplicate(root)
    inner = cast(SparseState, dense.get_submodule(CHILD))
    with torch.no_grad():
        for index, weight in enumerate(inner.weights()):
            weight.copy_(inner.masked(weight, index))
            weight.grad = None
    restore(dense)
    trainer.finalized = True
    return dense
