"""One training step of the masks: schedule, solve, assign, report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.bits import unpack
from sparsefx.masking.read_masks import counts as count
from sparsefx.masking.read_masks import frozen_bits, hard_bits, hard_masks
from sparsefx.masking.sparse_state import SparseState
from sparsefx.reports.report import HistoryPoint
from sparsefx.settings.schedule import Phase
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solution import Cut, Solution
from sparsefx.solver.solve import solve
from sparsefx.solver.survey_bands import ahead
from sparsefx.training import update_kept_masks
from sparsefx.training.device_step import DeviceStep
from sparsefx.training.mixed_units import move_units
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport

_HISTORY = 2000  # points kept for the report's curve; thinned out beyond


@dataclass(slots=True)
class Trainer:
    """What a sparse model remembers between steps, beside its buffers.

    Attributes:
        plan: what was asked for.
        kept: hard masks after the last step (`sparsefx.kernels.bits`), to report what
            changed and to hold frozen weights; found anew from the weights when
            missing.
        cuts: where masks were decided at the last update; only saves time.
        expected: where they will be at the next; only saves time.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
        told: a missing optimizer has been warned of.
        device: of steps that are taken without the host.
    """

    plan: Plan
    kept: list[Tensor] | None = None
    cuts: Sequence[Cut] | None = None
    expected: Sequence[Cut] | None = None
    history: list[HistoryPoint] = field(default_factory=list)
    finalized: bool = False
    told: bool = False
    device: DeviceStep = field(default_factory=DeviceStep)


def advance(
    state: SparseState,
    trainer: Trainer,
    optimizer: torch.optim.Optimizer | None = None,
) -> StepReport:
    """Counts one optimizer step and moves the masks as the schedule says."""
    policy = trainer.plan.policy
    trainer.told = update_kept_masks.check_optimizer(policy, optimizer, trainer.told)
    catch_up(state, trainer)
    enqueued = trainer.device.advance(state, trainer.plan)
    if enqueued is not None:
        trainer.kept = trainer.cuts = trainer.expected = None
        return enqueued
    schedule, number = policy.schedule(), int(state.step) + 1
    phase = schedule.at(number)
    frozen = bool(state.frozen)
    kept = current_bits(state, trainer)
    if state.kept is not None and not frozen:
        found = None
        update_kept_masks.update(state, trainer.plan, phase, optimizer)
    elif frozen:
        found = None
        with torch.no_grad():
            for weight, bits in zip(state.weights(), kept, strict=True):
                weight.masked_fill_(~unpack(bits, weight.shape), 0.0)
    else:
        if state.units is not None and phase.update:
            move_units(state, phase)
        found = project(state, trainer, phase) if phase.update else None
    state.step += 1  # after the solve: a refused weight leaves the state as it was
    report = describe(state, trainer, phase, found, kept)
    if phase.frozen and not bool(state.frozen):
        state.freeze()
        trainer.kept = frozen_bits(state)
    if state.kept is not None:
        update_kept_masks.expect(state, trainer.plan, schedule.at(number + 1))
    return report


def start(state: SparseState, trainer: Trainer, *, drawn: bool = True) -> None:
    """The masks of the step a state is at; not `drawn` finds them from the weights."""
    plan, number = trainer.plan, int(state.step)
    schedule = plan.policy.schedule()
    if state.kept is None:
        if state.units is not None and drawn:
            move_units(state, schedule.at(number))
        project(state, trainer, schedule.at(number))
        return
    update_kept_masks.start(state, plan, schedule.at(number), drawn=drawn)
    update_kept_masks.expect(state, plan, schedule.at(number + 1))


def catch_up(state: SparseState, trainer: Trainer) -> None:
    """Adds the last step to the curve, if a device has taken it."""
    last = trainer.device.settle(state.names)
    if last is not None:
        point = HistoryPoint(last.step, last.budget, last.soft_cost, last.hard_cost)
        remember(trainer, point)


def project(state: SparseState, trainer: Trainer, phase: Phase) -> Solution:
    """Solves for the masks of a phase and assigns them."""
    plan, weights = trainer.plan, state.weights()
    allowed = plan.allowed(phase.budget_progress)
    dual, beta = state.dual.tolist()
    found = solve(
        Request(
            values=state.values(),
            limits=plan.limits(allowed),
            worths=lambda prices, sums: plan.worths(weights, sums, prices),
            bounds=plan.bounds(allowed, weights),
            beta=phase.beta,
            names=state.names,
            sharpness=plan.sharpness,
            inclusive=plan.policy.inclusive,
        ),
        Warm(
            trainer.expected,
            dual,
            beta,
            (state.center - state.mu / state.slope).tolist(),
            state.multipliers.tolist(),
        ),
    )
    state.assign(found, phase.beta)
    trainer.expected = ahead(found.cuts, trainer.cuts)
    trainer.cuts = found.cuts
    return found


@torch.no_grad()
def describe(
    state: SparseState,
    trainer: Trainer,
    phase: Phase,
    found: Solution | None,
    kept: list[Tensor],
) -> StepReport:
    """The step's report; brings `kept`, the last masks, up to date; adds to the curve.

    What the solver did not tell is read from the weights.
    """
    plan = trainer.plan
    flats = state.values()
    kernels = kernels_for(flats)
    hardened = bool(state.frozen) or state.kept is not None
    if state.kept is not None:
        new = hard_bits(state)
        moved = sum(
            int(unpack(a ^ b, w.shape).count_nonzero())
            for a, b, w in zip(new, kept, state.weights(), strict=True)
        )
        kept, counts = new, count(state, new)
        bought = tuple(map(float, counts))
    elif hardened:
        counts = count(state, kept)
        moved, bought = 0, tuple(map(float, counts))
    else:
        rules = (state.threshold.tolist(), state.last.tolist())
        counts, changed = kernels.hard_masks(flats, *rules, into=kept)
        moved = sum(changed)
    hard = plan.spent(counts)
    if found is not None:
        soft = tuple(
            plan.reserved(target) + cost
            for target, cost in zip(plan.targets, found.soft_costs, strict=True)
        )
        bought = tuple(site.bought for site in found.sites)
    elif not hardened:
        soft_masks = (state.slope.tolist(), state.center.tolist(), state.mu.tolist())
        sums = kernels.soft_sums(flats, *soft_masks, *rules)
        soft = plan.spent(sums.kept)
        bought = sums.bought
    else:
        soft = hard
    sizes = [flat.numel() for flat in flats]
    trainer.kept = kept
    allowed = plan.allowed(phase.budget_progress)
    step = int(state.step)
    remember(trainer, HistoryPoint(step, allowed[0], soft[0], hard[0]))
    if found is not None:
        trainer.device.taken(step, counts, bought)
    else:
        trainer.device.forget()
    return StepReport(
        step=step,
        budget=allowed[0],
        soft_cost=soft[0],
        hard_cost=hard[0],
        budgets={
            target.cost: (limit, mean, whole)
            for target, limit, mean, whole in zip(
                plan.targets, allowed, soft, hard, strict=True
            )
        },
        beta=float(state.dual[1]) if found is None else phase.beta,
        mu=float(state.dual[0]),
        sweeps=found.sweeps if found is not None else 0,
        changed=moved / max(sum(sizes), 1),
        kept_mask_mean=math.fsum(bought) / max(sum(counts), 1),
        densities=plan.densities(counts),
        frozen=phase.frozen,
        binding=binding(state, plan, hard),
    )


def binding(state: SparseState, plan: Plan, hard: Sequence[float]) -> tuple[str, ...]:
    """Names of the budgets that decide how much is kept."""
    rows = zip(plan.targets, hard, state.multipliers[0].tolist(), strict=True)
    return tuple(
        target.cost
        for target, cost, multiplier in rows
        if (multiplier > 0 if plan.several else cost < plan.total(target))
    )


def remember(trainer: Trainer, point: HistoryPoint) -> None:
    """Adds a point to the curve; every second one goes when there are too many."""
    trainer.history.append(point)
    if len(trainer.history) > _HISTORY:
        del trainer.history[1:-1:2]


def current_bits(state: SparseState, trainer: Trainer) -> list[Tensor]:
    """The hard masks of all sites after the last step, as `sparsefx.kernels.bits`."""
    if trainer.kept is None:
        frozen = bool(state.frozen)
        trainer.kept = frozen_bits(state) if frozen else hard_bits(state)
    return trainer.kept


def current_masks(state: SparseState, trainer: Trainer) -> list[Tensor]:
    """The hard masks of all sites as they are now."""
    if not bool(state.frozen):
        return hard_masks(state)
    pairs = zip(current_bits(state, trainer), state.weights(), strict=True)
    return [unpack(bits, weight.shape) for bits, weight in pairs]


def loaded(state: SparseState, with_masks: bool) -> None:
    """After loading: remembers the masks; finds them anew for dense weights."""
    trainer: Trainer = state.__dict__["trainer"]
    trainer.kept = None
    trainer.device.forget()
    if not with_masks:
        state.frozen.fill_(False)
        start(state, trainer, drawn=False)
    elif state.kept is not None:
        following = trainer.plan.policy.schedule().at(int(state.step) + 1)
        update_kept_masks.expect(state, trainer.plan, following)
    current_bits(state, trainer)
