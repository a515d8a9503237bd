"""Calls that are refused, and words about those that are mostly mistakes."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from sparsefx.errors import MaskError
from sparsefx.training.life import Life

_BEYOND = 2  # times total_steps: more is no fine-tuning behind the end


def check_model(model: object) -> None:
    """Refuses what cannot be transformed.

    Raises:
        MaskError: it is no module, compiled, or transformed already.
    """
    if not isinstance(model, nn.Module):
        raise MaskError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if "_orig_mod" in model._modules:
        raise MaskError(
            "this model is compiled by torch.compile; transform the model that was "
            "compiled, and compile what sparsefx.transform returns"
        )
    if any(isinstance(part, Life) for part in model.modules()):
        raise MaskError(
            f"this {type(model).__name__} is already transformed; transform the "
            "original model, or finalize this one first"
        )


def say_if_foreign(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Warns where the optimizer trains nothing of the model."""
    own = {id(parameter) for parameter in module.parameters()}
    held = (p for group in optimizer.param_groups for p in group["params"])
    if not any(id(parameter) in own for parameter in held):
        _warn(
            f"this {type(optimizer).__name__} holds no parameter of the sparse "
            f"{type(module).__name__}, which then never learns; make the optimizer "
            "from the parameters of what sparsefx.transform returned"
        )


def say_if_beyond(life: Life) -> None:
    """Warns before a step that comes long after the schedule, as of epochs."""
    total = life.plan.policy.total_steps
    if total is not None and life.step == _BEYOND * total:
        _warn(
            f"step {life.step + 1} of total_steps={total}: the budget's ramp and the "
            "freeze were over long ago; total_steps counts steps of the optimizer, not "
            "epochs; give epochs * len(loader)"
        )


def say_if_early(life: Life) -> None:
    """Warns where a model is finalized while its budget is still falling."""
    policy = life.plan.policy
    schedule = policy.schedule()
    if (
        life.step >= schedule.progress.end
        or schedule.at(life.step).budget_progress == 1
    ):
        return
    _warn(
        f"finalize at step {life.step}: the budget reaches its target at step "
        f"{schedule.progress.end}, and this model costs more than that; train on, or "
        f"transform with fewer total_steps than {policy.total_steps}"
    )


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)
