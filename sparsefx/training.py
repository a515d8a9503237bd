"""One training step of the masks: schedule, solve, assign, report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.layer import readable
from sparsefx.learners.soft_topk import MaskParameters, look, solve
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
        cuts: where thresholds were at the last update; only saves time.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
    """

    plan: Plan
    kept: list[Tensor] | None = None
    cuts: tuple[float, ...] | None = None
    history: list[HistoryPoint] = field(default_factory=list)
    finalized: bool = False


def advance(state: SparseState, trainer: Trainer) -> StepReport:
    """Counts one optimizer step and moves the masks as the schedule says."""
    phase = trainer.plan.policy.schedule().at(int(state.step) + 1)
    frozen = bool(state.frozen)
    masks = trainer.kept if trainer.kept is not None else current_masks(state, trainer)
    if frozen:
        found = None
        with torch.no_grad():
            for weight, kept in zip(state.weights(), masks, strict=True):
                weight.masked_fill_(~kept, 0.0)
    else:
        found = project(state, trainer, phase) if phase.update else None
    state.step += 1  # after the solve: a refused weight leaves the state as it was
    report = describe(state, trainer, phase, found, masks)
    if phase.frozen and not bool(state.frozen):
        trainer.kept = state.freeze()
    return report


def project(state: SparseState, trainer: Trainer, phase: Phase) -> MaskParameters:
    """Solves for the masks of a phase and assigns them."""
    plan = trainer.plan
    weights = state.weights()
    budget = plan.allowed(phase.budget_progress)
    mu, beta = state.dual.tolist()
    known = math.isfinite(mu) and beta > 0
    flats = [readable(weight) for weight in weights]
    survey = look(flats, trainer.cuts)
    found = solve(
        flats,
        plan.prices(),
        plan.worths(weights, survey.sums),
        plan.limits(budget, weights),
        budget - plan.reserved,
        phase.beta,
        mu * phase.beta / beta if known else None,
        state.names,
        survey,
    )
    state.assign(found, phase.beta)
    trainer.cuts = found.cuts
    return found


@torch.no_grad()
def describe(
    state: SparseState,
    trainer: Trainer,
    phase: Phase,
    found: MaskParameters | None,
    kept: list[Tensor],
) -> StepReport:
    """The step's report; brings `kept`, the last masks, up to date; adds to the curve.

    What the solver did not tell is read from the weights.
    """
    plan, prices = trainer.plan, trainer.plan.prices()
    flats = [readable(weight) for weight in state.weights()]
    kernels = kernels_for(flats)
    if bool(state.frozen):
        counts, moved = [int(k.count_nonzero()) for k in kept], 0
        bought = [float(n) for n in counts]
    else:
        rules = (state.threshold.tolist(), state.last.tolist())
        counts, changed = kernels.hard_masks(flats, *rules, into=kept)
        moved = sum(changed)
    hard = plan.reserved + math.fsum(p * n for p, n in zip(prices, counts, strict=True))
    if found is not None:
        soft, bought = plan.reserved + found.soft_cost, found.bought
    elif not bool(state.frozen):
        soft_masks = (state.slope.tolist(), state.center.tolist(), state.mu.tolist())
        sums = kernels.soft_sums(flats, *soft_masks, *rules)
        pairs = zip(prices, sums.kept, strict=True)
        soft = plan.reserved + math.fsum(p * n for p, n in pairs)
        bought = sums.bought
    else:
        soft = hard
    total = sum(k.numel() for k in kept)
    trainer.kept = kept
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
        kept_mask_mean=math.fsum(bought) / max(sum(counts), 1),
        densities={
            n: c / k.numel() for n, c, k in zip(state.names, counts, kept, strict=True)
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
        project(state, trainer, trainer.plan.policy.schedule().at(int(state.step)))
    trainer.kept = current_masks(state, trainer)
