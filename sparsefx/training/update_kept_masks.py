"""One update of masks that are kept: gather, decide, and apply to weights and state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.learners import learner_of
from sparsefx.learners.choose_entries import one_each
from sparsefx.learners.learner import Situation
from sparsefx.learners.magnitude import decide as by_magnitude
from sparsefx.masking.kept_masks import KeptMasks
from sparsefx.masking.read_masks import entry_masks
from sparsefx.masking.sparse_state import SparseState
from sparsefx.policies.policy import Policy
from sparsefx.settings.schedule import Phase
from sparsefx.training.optimizer_state import forget
from sparsefx.training.plan import Plan


def keeps_masks(policy: Policy) -> bool:
    """Whether the policy's learner keeps its masks."""
    return learner_of(policy.learner).stored


def wide(policy: Policy) -> bool:
    """Whether what receives gradients is a set of its own."""
    dense = learner_of(policy.learner).dense_gradients
    return dense and policy.backward_density < 1


def moves_state(policy: Policy) -> bool:
    """Whether an optimizer's state is to be zeroed where masks move."""
    reads = "optimizer_state" in learner_of(policy.learner).reads
    return reads and policy.optimizer_state == "zero" and _zeroes(policy)


def _zeroes(policy: Policy) -> bool:
    """Whether dropped weights become zero."""
    learner = learner_of(policy.learner)
    asked = policy.dropped == "zero" or "dropped" not in learner.reads
    return learner.zeroes and asked


@torch.no_grad()
def start(state: SparseState, plan: Plan, phase: Phase, *, drawn: bool = True) -> None:
    """The first masks: those of the learner, or the largest weights if not `drawn`.

    Nothing is done to the weights yet: dropped ones become zero at the first step.
    """
    situation = _situation(state, plan, replace(phase, drop_fraction=0.0), None, [])
    learner = learner_of(plan.policy.learner)
    found = learner.answer(situation) if drawn else by_magnitude(situation)
    kept = _kept(state)
    _write(state, "mask", found.masks)
    if kept.wide:
        reach = found.reach if found.reach is not None else found.masks
        _write(state, "reach", reach)
    state.mu.fill_(torch.inf)
    state.dual.copy_(torch.tensor([torch.inf, torch.inf], dtype=torch.float64))
    state.frozen.fill_(False)


@torch.no_grad()
def update(
    state: SparseState,
    plan: Plan,
    phase: Phase,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """What follows an optimizer's step: dropped weights stay zero, masks move."""
    policy, kept, weights = plan.policy, _kept(state), state.weights()
    before = kept.masks(len(weights))
    scores = kept.taken(len(weights))
    if _zeroes(policy):
        hold(weights, before)
    if not phase.update:
        return
    flat = entry_masks(state, before)
    before = [mask.clone() for mask in before]
    situation = _situation(state, plan, phase, flat, scores)
    found = learner_of(policy.learner).answer(situation)
    _write(state, "mask", found.masks)
    if found.reach is not None:
        _write(state, "reach", found.reach)
    after = kept.masks(len(weights))
    moved = [old ^ new for old, new in zip(before, after, strict=True)]
    if _zeroes(policy):
        hold(weights, after)
    if found.fresh is not None:
        fresh = _whole(state, found.fresh)
        hold(weights, [~entries for entries in fresh])
        moved = [entries | new for entries, new in zip(moved, fresh, strict=True)]
    if optimizer is not None and moves_state(policy):
        forget(optimizer, weights, moved)


@torch.no_grad()
def hold(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Makes dropped weights zero."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.masked_fill_(~mask, 0.0)


def expect(state: SparseState, plan: Plan, following: Phase) -> None:
    """Says whether the next backward pass must deliver dense gradients."""
    learner, kept = learner_of(plan.policy.learner), _kept(state)
    moves = following.drop_fraction > 0 or "drop_fraction" not in learner.reads
    scored = learner.scores and following.update and moves
    kept.wanted = scored and not bool(state.frozen)
    dense = learner.dense_gradients and not kept.wide
    state.through.fill_(float(kept.wanted or (dense and not bool(state.frozen))))


def check_optimizer(
    policy: Policy, optimizer: torch.optim.Optimizer | None, told: bool
) -> bool:
    """Warns of an optimizer that is missing (once) or has no effect.

    Returns:
        Whether a missing one has been told of.
    """
    learner = learner_of(policy.learner)
    if optimizer is not None and not moves_state(policy):
        _say(
            f"optimizer has no effect: the learner {learner.name} moves no state of "
            "it here"
        )
    if optimizer is None and moves_state(policy) and not told:
        _say(
            f"the learner {learner.name} sets the optimizer's state to zero where "
            "masks move; write sparsefx.step(model, optimizer=optimizer), or set "
            "optimizer_state: keep"
        )
        return True
    return told


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _kept(state: SparseState) -> KeptMasks:
    assert state.kept is not None, "only learners that keep masks come here"
    return state.kept


def _write(state: SparseState, kind: str, masks: Sequence[Tensor]) -> None:
    for index, whole in enumerate(_whole(state, masks)):
        getattr(_kept(state), f"{kind}_{index}").copy_(whole)


def _whole(state: SparseState, masks: Sequence[Tensor]) -> list[Tensor]:
    """Masks of entries, flat, as masks of the weights."""
    rows = zip(masks, state.groups(), state.weights(), strict=True)
    return [
        groups.expand(weight, mask) if groups else mask.view(weight.shape)
        for mask, groups, weight in rows
    ]


def _scores(
    state: SparseState, found: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """Absolute gradients of entries: groups have the mean of theirs."""
    return [
        score if score is None or groups is None else groups.values(score.view_as(w))
        for score, groups, w in zip(found, state.groups(), state.weights(), strict=True)
    ]


def _situation(
    state: SparseState,
    plan: Plan,
    phase: Phase,
    masks: Sequence[Tensor] | None,
    scores: Sequence[Tensor | None],
) -> Situation:
    policy, weights = plan.policy, state.weights()
    flats = state.values()
    prices, sizes = plan.prices(), [flat.numel() for flat in flats]
    allowed = plan.allowed(phase.budget_progress)
    budget, reserved = allowed[0], plan.reserved(plan.targets[0])

    def limits(allowed: Sequence[float]) -> list[tuple[int, int]]:
        if plan.several:
            return plan.settled(allowed, weights)
        found = plan.bounds(allowed, weights)
        return one_each(found, prices, sizes, allowed[0] - reserved)

    _check(state.names, flats)
    random = masks is None and learner_of(policy.learner).drawn
    starts = plan.starts(allowed, weights) if random else []
    share = policy.backward_density
    pairs = zip(plan.targets, allowed, strict=True)
    others = tuple(max(share * plan.total(t), amount) for t, amount in pairs)
    wider = (others[0] - reserved, limits(others)) if wide(policy) else None
    return Situation(
        names=state.names,
        values=flats,
        prices=prices,
        worths=plan.worths(weights),
        limits=limits(allowed),
        budget=budget - reserved,
        masks=masks,
        scores=_scores(state, scores) if scores else scores,
        starts=[
            a
            for a, _ in one_each(
                [(n, n) for n in starts], prices, sizes, budget - reserved
            )
        ]
        if starts
        else [],
        drop_fraction=phase.drop_fraction,
        beta=phase.beta,
        hold=policy.dropped == "hold",
        wider=wider,
        seed=policy.seed * 1_000_003 + int(state.step),
    )


def _check(names: Sequence[str], flats: Sequence[Tensor]) -> None:
    for name, flat in zip(names, flats, strict=True):
        if not bool(flat.isfinite().all()):
            raise MaskError(
                f"weight {name!r} has NaN or infinite entries; masks rank magnitudes "
                "and need finite ones: restore a checkpoint, or lower the learning rate"
            )
