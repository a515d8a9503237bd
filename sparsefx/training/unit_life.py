"""The life of a model whose units are learned: step, report, finalize."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import MaskError
from sparsefx.learners import learner_of
from sparsefx.masking.masked_module import duplicate, program_of, restore, unwrapped
from sparsefx.masking.sparse_state import CHILD
from sparsefx.reports.report import (
    BudgetReport,
    Cost,
    Coverage,
    HistoryPoint,
    LayerReport,
    Report,
    Total,
)
from sparsefx.tracing.capture import by_path
from sparsefx.training.step_report import StepReport
from sparsefx.training.unit_state import UnitState
from sparsefx.training.unit_trainer import COSTS, UnitTrainer, assign, situation

P = ParamSpec("P")
T = TypeVar("T")


def units_by(
    other: Callable[..., T],
) -> Callable[
    [Callable[Concatenate[nn.Module, P], T]], Callable[Concatenate[nn.Module, P], T]
]:
    """Gives models whose units are learned to another function."""

    def wrap(
        function: Callable[Concatenate[nn.Module, P], T],
    ) -> Callable[Concatenate[nn.Module, P], T]:
        @functools.wraps(function)
        def choose(module: nn.Module, *args: P.args, **kwargs: P.kwargs) -> T:
            root = unwrapped(module)
            state = root._modules.get(CHILD)
            if not isinstance(state, UnitState):
                return function(module, *args, **kwargs)
            verb = function.__name__
            if state.__dict__["trainer"].finalized and verb in ("step", "finalize"):
                raise MaskError(
                    f"{verb} after finalize: this model has been finalized; train the "
                    "model that finalize returned, or transform again"
                )
            return other(root, state, *args, **kwargs)

        return cast(Callable[Concatenate[nn.Module, P], T], choose)

    return wrap


def kept_units(root: nn.Module, state: UnitState) -> dict[str, Tensor]:
    """Whether each unit is kept, by group."""
    return state.masks()


def gated_graphs(root: nn.Module, state: UnitState) -> dict[str, fx.GraphModule]:
    """The gated graphs by module path."""
    return by_path(root, {"": program_of(root)})


@torch.no_grad()
def advance_units(
    root: nn.Module,
    state: UnitState,
    optimizer: torch.optim.Optimizer | None = None,
) -> StepReport:
    """Counts one optimizer step and moves the gates as the schedule says."""
    del optimizer  # units keep their weights and the state of these
    trainer: UnitTrainer = state.__dict__["trainer"]
    policy = trainer.policy
    phase = policy.schedule().at(int(state.step) + 1)
    before = state.masks()
    learner = learner_of(policy.learner)
    if phase.update and trainer.groups and not bool(state.frozen):
        tensors = dict(root.named_parameters(remove_duplicate=False))
        found = situation(
            tensors,
            state,
            trainer,
            phase.budget_progress,
            phase.drop_fraction,
            phase.beta,
        )
        assign(state, learner.answer(found))
        state.clear()
    if phase.frozen:
        state.frozen.fill_(True)
    state.step += 1
    masks = state.masks()
    hard, budget = trainer.spent(masks), trainer.allowed(phase.budget_progress)
    gates = torch.cat([torch.zeros(0), *(state[n].cpu() for n in state.names)])
    soft = hard - math.fsum(
        trainer.price(g) * float((masks[g.name].float() - state[g.name]).sum())
        for g in trainer.groups
    )
    moved = sum(int((masks[n] ^ before[n]).sum()) for n in state.names)
    step = int(state.step)
    trainer.history.append(HistoryPoint(step, budget, soft, hard))
    return StepReport(
        step=step,
        budget=budget,
        soft_cost=soft,
        hard_cost=hard,
        budgets={trainer.cost: (budget, soft, hard)},
        beta=phase.beta,
        mu=0.0,
        sweeps=0,
        changed=moved / max(len(gates), 1),
        kept_mask_mean=float(gates.sum() / max(int((gates != 0).sum()), 1)),
        densities={n: float(m.float().mean()) for n, m in masks.items()},
        frozen=bool(state.frozen),
    )


def report_units(root: nn.Module, state: UnitState) -> Report:
    """One row a group of units."""
    trainer: UnitTrainer = state.__dict__["trainer"]
    masks = state.masks()
    rows = []
    for group in trainer.groups:
        kept = int(masks[group.name].sum())
        costs = {
            cost: Cost(
                trainer.price(group, cost) * kept,
                trainer.price(group, cost) * group.size,
            )
            for cost in COSTS
        }
        density = kept / group.size
        row = LayerReport(group.name, group.kind, (group.size,), "unit", density, costs)
        rows.append(row)
    totals = {}
    for cost in COSTS:
        kept_cost = sum(row.costs[cost].kept for row in rows)
        dense = sum(row.costs[cost].dense for row in rows)
        fixed = trainer.dense[cost] - dense
        given = trainer.given[cost] - fixed
        totals[cost] = Total(kept_cost, dense, fixed, given)
    spent = trainer.spent(masks)
    met = spent <= trainer.limit * (1 + 1e-12)
    owned = {s.name for g in trainer.groups for s in g.tensors}
    coverage = tuple(
        Coverage(name, name.rpartition(".")[0], "graph" if name in owned else None, why)
        for name, _ in root.named_parameters()
        for why in ("" if name in owned else "no unit owns a part of it",)
    )
    return Report(
        policy=trainer.policy.name,
        step=int(state.step),
        frozen=bool(state.frozen),
        layers=tuple(rows),
        totals=totals,
        budgets={trainer.cost: BudgetReport(trainer.limit, spent, met)},
        coverage=coverage,
        history=tuple(trainer.history),
    )


def finalize_units(root: nn.Module, state: UnitState) -> nn.Module:
    """The plain model with gates multiplied into the weights behind them.

    Columns of removed units are exactly zero, so that `ShrinkUnits` cuts them.
    """
    state.__dict__["trainer"].finalized = True
    dense = duplicate(root)
    inner = cast(UnitState, dense.get_submodule(CHILD))
    with torch.no_grad():
        for index, (name, _) in enumerate(inner.consumers):
            path, _, attribute = name.rpartition(".")
            weight = dense.get_submodule(path)._parameters[attribute]
            assert weight is not None
            weight.copy_(inner.masked(weight, index))
            weight.grad = None
    restore(dense)
    return dense
