"""One training step of the masks: schedule, solve, assign, report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsefx.layer import soft_mask
from sparsefx.learners.soft_topk import MaskParameters, solve
from sparsefx.masking import magnitude
from sparsefx.plan import Plan
from sparsefx.report import HistoryPoint
from sparsefx.schedule import Phase
from sparsefx.state import SparseState

_HISTORY = 2000  # points kept for the report's curve; thinned out beyond


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step of the masks did; costs are in the unit of the budget.

    Attributes:
        step: optimizer steps taken.
        budget: cost allowed at this step.
        soft_cost: cost of the soft masks.
        hard_cost: cost of the hard masks, never above ``budget``.
        budgets: by budget name, ``(budget, soft_cost, hard_cost)``.
        beta: inverse temperature.
        mu: the shared multiplier: ``m = sigmoid(beta worth |w| / price + mu)``.
        sweeps: passes over the weights the solver took.
        changed: share of mask entries that moved.
        kept_mask_mean: mean soft mask of the kept entries, the factor by which
            masking shrinks them.
        densities: kept fraction by parameter name.
        frozen: masks no longer move.
    """

    step: int
    budget: float
    soft_cost: float
    hard_cost: float
    budgets: Mapping[str, tuple[float, float, float]]
    beta: float
    mu: float
    sweeps: int
    changed: float
    kept_mask_mean: float
    densities: Mapping[str, float]
    frozen: bool


@dataclass(slots=True)
class Trainer:
    """What a sparse model remembers between steps, beside its buffers.

    Attributes:
        plan: what was asked for.
        kept: hard masks after the last step, to report what changed and to hold
            frozen weights; found anew from the weights when missing.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
    """

    plan: Plan
    kept: list[Tensor] | None = None
    history: list[HistoryPoint] = field(default_factory=list)
    finalized: bool = False


def advance(state: SparseState, trainer: Trainer) -> StepReport:
    """Counts one optimizer step and moves the masks as the schedule says."""
    phase = trainer.plan.policy.schedule().at(int(state.step) + 1)
    frozen = bool(state.frozen)
    before = trainer.kept if trainer.kept is not None else current_masks(state, trainer)
    if frozen:
        found = None
        with torch.no_grad():
            for weight, kept in zip(state.weights(), before, strict=True):
                weight.masked_fill_(~kept, 0.0)
    else:
        found = project(state, trainer.plan, phase) if phase.update else None
    state.step += 1  # after the solve: a refused weight leaves the state as it was
    report = describe(state, trainer, phase, found, before)
    if phase.frozen and not bool(state.frozen):
        trainer.kept = state.freeze()
    return report


def project(state: SparseState, plan: Plan, phase: Phase) -> MaskParameters:
    """Solves for the masks of a phase and assigns them."""
    weights = state.weights()
    budget = plan.allowed(phase.budget_progress)
    mu, beta = state.dual.tolist()
    known = math.isfinite(mu) and beta > 0
    found = solve(
        weights,
        plan.prices(),
        plan.worths(weights),
        plan.limits(budget, weights),
        budget - plan.reserved,
        phase.beta,
        mu * phase.beta / beta if known else None,
        state.names,
    )
    state.assign(found, phase.beta)
    return found


@torch.no_grad()
def describe(
    state: SparseState,
    trainer: Trainer,
    phase: Phase,
    found: MaskParameters | None,
    before: list[Tensor],
) -> StepReport:
    """The step's report; remembers the masks and the curve's point."""
    plan = trainer.plan
    after = before if bool(state.frozen) else state.hard_masks()
    prices = plan.prices()
    counts = [int(k.count_nonzero()) for k in after]
    moved = sum(
        int((a != b).count_nonzero())
        for a, b in zip(before, after, strict=True)
        if a is not b
    )
    total = sum(k.numel() for k in after)
    hard = plan.reserved + math.fsum(p * n for p, n in zip(prices, counts, strict=True))
    soft_sum = kept_sum = 0.0
    for index, (weight, kept, price) in enumerate(
        zip(state.weights(), after, prices, strict=True)
    ):
        if found is not None and float(state.spread[index]) == 0.0:
            soft_sum += price * counts[index]
            kept_sum += counts[index]
            continue
        scalars = (state.slope[index], state.center[index], state.mu[index])
        m = soft_mask(magnitude(weight), *scalars)
        soft_sum += price * float(m.sum(dtype=torch.float64))
        kept_sum += float(m[kept].sum(dtype=torch.float64))
    soft = hard if bool(state.frozen) else plan.reserved + soft_sum
    if found is not None:
        soft = plan.reserved + found.soft_cost
    trainer.kept = after
    budget = plan.allowed(phase.budget_progress)
    step = int(state.step)
    remember(trainer, HistoryPoint(step, budget, soft, hard))
    return StepReport(
        step=step,
        budget=budget,
        soft_cost=soft,
        hard_cost=hard,
        budgets={plan.cost: (budget, soft, hard)},
        beta=float(state.dual[1]) if found is None else phase.beta,
        mu=float(state.dual[0]),
        sweeps=found.sweeps if found is not None else 0,
        changed=moved / max(total, 1),
        kept_mask_mean=kept_sum / max(sum(counts), 1),
        densities={
            n: c / k.numel() for n, c, k in zip(state.names, counts, after, strict=True)
        },
        frozen=phase.frozen,
    )


def remember(trainer: Trainer, point: HistoryPoint) -> None:
    """Adds a point to the curve; every second one goes when there are too many."""
    trainer.history.append(point)
    if len(trainer.history) > _HISTORY:
        del trainer.history[1:-1:2]


@torch.no_grad()
def current_masks(state: SparseState, trainer: Trainer) -> list[Tensor]:
    """The hard masks of all sites as they are now."""
    if not bool(state.frozen):
        return state.hard_masks()
    if trainer.kept is None:  # after loading a checkpoint
        trainer.kept = [
            torch.ones_like(w, dtype=torch.bool) if float(t) < 0 else w != 0
            for w, t in zip(state.weights(), state.threshold, strict=True)
        ]
    return trainer.kept


def loaded(state: SparseState, with_masks: bool) -> None:
    """After loading: remembers the masks; finds them anew for dense weights."""
    trainer: Trainer = state.__dict__["trainer"]
    trainer.kept = None
    if not with_masks:
        state.frozen.fill_(False)
        project(state, trainer.plan, trainer.plan.policy.schedule().at(int(state.step)))
    trainer.kept = current_masks(state, trainer)
