"""A sparse model while it lives: made, stepped, asked for its masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.learners import learner_of
from sparsefx.masking.masked_module import unwrapped as unwrapped
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import CHILD, SparseState
from sparsefx.policies.load_policy import PolicySource, load_policy
from sparsefx.training.build import build
from sparsefx.training.build_rewritten import rebuild
from sparsefx.training.build_tokens import build_tokens
from sparsefx.training.build_units import build_units
from sparsefx.training.step_report import StepReport
from sparsefx.training.token_life import cools_tokens
from sparsefx.training.trainer import Trainer, advance, current_masks
from sparsefx.training.unit_life import (
    advance_units,
    kept_units,
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
    if learner_of(settings.learner).part == "units":
        return build_units(model, settings, example_inputs, inplace=inplace)
    options: dict[str, Any] = {"inplace": inplace, "strict": strict}
    if settings.rewrite != "none":
        return rebuild(model, settings, example_inputs, **options)
    known: dict[str, Any] = {"calibration": calibration, "loss": loss}
    return build(model, settings, example_inputs, **known, **options)


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
