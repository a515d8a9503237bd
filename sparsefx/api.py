"""The life cycle: transform, step, report, finalize."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sparsefx.building import build
from sparsefx.capture import Capture, by_path, capture
from sparsefx.cost import CostTable
from sparsefx.draw import draw as draw_graphs
from sparsefx.errors import CaptureError, MaskError
from sparsefx.example_inputs import offered
from sparsefx.learners import UNIT_LEARNERS
from sparsefx.masked_module import duplicate, program_of, restore
from sparsefx.masked_module import unwrapped as unwrapped
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.policies.sensitivity import measure_sensitivity
from sparsefx.policy_source import PolicySource, load_policy
from sparsefx.report import Report
from sparsefx.reporting import reported
from sparsefx.restructure import rebuild
from sparsefx.site import Site
from sparsefx.state import CHILD, SparseState
from sparsefx.step_report import StepReport
from sparsefx.token_building import build_tokens
from sparsefx.token_life import cools_tokens, reports_tokens
from sparsefx.training import Trainer, advance, current_masks
from sparsefx.unit_building import build_units
from sparsefx.unit_life import (
    advance_units,
    finalize_units,
    gated_graphs,
    kept_units,
    report_units,
    units_by,
)


def transform(
    model: nn.Module,
    policy: PolicySource = "cost_budget",
    *,
    example_inputs: Any = None,
    inplace: bool = False,
    strict: bool = False,
    calibration: Sequence[tuple[Any, Any]] = (),
    loss: Callable[[Any, Any], Tensor] | None = None,
    **overrides: Any,
) -> nn.Module:
    """Makes a model train sparse: its weights are masked under an exact budget.

    Args:
        model: any module. It is not touched unless ``inplace``; the result shares its
            parameters and buffers, so that an existing optimizer stays valid.
        policy: a preset's name, the path of a YAML file, a mapping, a `Policy`, or a
            function ``(sites, budget) -> Allocation``.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, for
            the graph and the costs, or a list of such, a graph for each (costs are of
            the first). Without them, what the model offers is used.
        inplace: transform the model itself.
        strict: raise if a selected weight cannot be masked, instead of warning.
        calibration: a few batches, pairs of input and target, for the policy
            ``sensitivity``; and the ``loss`` of output and target they are judged by.
        loss: see ``calibration``.
        overrides: fields of `Policy`: ``budget=``, ``total_steps=``, ``exclude=`` ...

    Returns:
        A module of the model's class with the same parameter names and signature; with
        a policy that rewrites the structure or drops tokens, a graph module with the
        signature and tensors of its own.

    Raises:
        PolicyError: the policy or one of its fields is not understood.
        BudgetError: the budget cannot be met.
        CaptureError: the model does not run on the example inputs.
        MaskError: the model is already transformed, has nothing to mask, or ``strict``
            and a weight stays dense.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> sparse = transform(net, budget=0.25, example_inputs=(torch.randn(2, 8),))
        >>> sum(int(mask.sum()) for mask in masks(sparse).values())
        48
    """
    settings = load_policy(policy, **overrides)
    if not isinstance(model, nn.Module):
        raise MaskError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if _find_state(model) is not None:
        raise MaskError(
            f"this {type(model).__name__} is already transformed; transform the "
            "original model, or finalize this one first"
        )
    if settings.tokens:
        return build_tokens(
            model, settings, example_inputs, inplace=inplace, strict=strict
        )
    if settings.learner in UNIT_LEARNERS:
        return build_units(model, settings, example_inputs, inplace=inplace)
    measured = None
    if calibration and loss is not None:
        measured = functools.partial(
            measure_sensitivity, model, calibration=calibration, loss=loss
        )
    options: dict[str, Any] = {"inplace": inplace, "strict": strict}
    if settings.rewrite != "none":
        return rebuild(model, settings, example_inputs, **options)
    return build(model, settings, example_inputs, measure=measured, **options)


@cools_tokens
@units_by(advance_units)
def step(
    module: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> StepReport:
    """Moves the masks one step; call it after ``optimizer.step()``.

    Args:
        module: what `transform` returned, also inside DDP or ``torch.compile``.
        optimizer: for learners that set its state to zero where masks move (magnitude,
            set, rigl, granet, unless ``optimizer_state="keep"``).

    Raises:
        MaskError: the module is not transformed or is finalized, or a weight has NaN
            or infinite entries (the masks then stay as they were).

    Example:
        >>> net = nn.Linear(8, 4)
        >>> sparse = transform(net, budget=0.5, example_inputs=(torch.randn(2, 8),))
        >>> step(sparse).hard_cost
        32.0
    """
    state, trainer = _live(module, "step")
    return advance(state, trainer, optimizer)


@units_by(kept_units)
def masks(module: nn.Module) -> dict[str, Tensor]:
    """The hard masks (bool, True is kept) by parameter name.

    Example:
        >>> net = nn.Linear(4, 1)
        >>> _ = nn.init.constant_(net.weight, 1.0)
        >>> masks(transform(net, budget=0.5, example_inputs=(torch.ones(1, 4),)))
        {'weight': tensor([[ True,  True, False, False]])}
    """
    state, trainer = _live(module, "masks")
    found = current_masks(state, trainer)
    return {n: mask.clone() for n, mask in zip(state.names, found, strict=True)}


def sites(module: nn.Module) -> tuple[Site, ...]:
    """The masked weights with granularity, costs and bounds.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), example_inputs=(torch.ones(3, 4),))
        >>> [(site.name, str(site.costs["macs"])) for site in sites(sparse)]
        [('weight', 'batch')]
    """
    state, trainer = _live(module, "sites")
    return tuple(trainer.plan.live(state.weights()))


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


def _find_state(model: nn.Module) -> SparseState | None:
    return next((m for m in model.modules() if isinstance(m, SparseState)), None)


def _live(module: nn.Module, verb: str) -> tuple[SparseState, Trainer]:
    root = unwrapped(module)
    state = root._modules.get(CHILD)
    if not isinstance(state, SparseState):
        raise MaskError(
            f"{verb} needs what sparsefx.transform returned; this "
            f"{type(root).__name__} has no masks (it was never transformed, or is "
            "already finalized)"
        )
    trainer = cast(Trainer, state.trainer)
    if trainer.finalized and verb in ("step", "finalize"):
        raise MaskError(
            f"{verb} after finalize: this model has been finalized and its masks are "
            "final; train the model that finalize returned, or transform again"
        )
    return state, trainer
