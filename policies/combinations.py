"""Settings that do not go together: what is refused, and what has no effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsefx.errors import PolicyError
from sparsefx.learners import LEARNERS, learner_of
from sparsefx.policies import ALLOCATIONS, function_of
from sparsefx.policies.policy_function import accepted, by_weights
from sparsefx.settings.fields import Setting, plain, without_effect
from sparsefx.settings.kinds import LAYER_RULES
from sparsefx.settings.rules import unknown
from sparsefx.settings.schedule import resolve

_FIRST = "{before: 0}"
_FEW = 2  # updates that make no schedule
_TRIAL = 25  # steps: what is shorter is a trial of the code

if TYPE_CHECKING:
    from sparsefx.policies.policy import Policy


def refuse_contradictions(policy: Policy, known: Mapping[str, Setting]) -> None:
    """Refuses settings that contradict each other.

    Raises:
        PolicyError: they do; the message names them.
    """
    message = contradiction(policy, known)
    if message:
        raise PolicyError(message)
    if policy.total_steps is not None:
        policy.schedule()  # refuses ramps and a freeze out of order


def contradiction(policy: Policy, known: Mapping[str, Setting]) -> str:
    """Why settings, each allowed by itself, do not go together; "" if they do."""
    learner = learner_of(policy.learner)
    for name in sorted(learner.reads - known.keys()):
        unknown(f"setting of the learner {learner.name}", name, known)
    for name in ("begin_step", "drop_end", "end_step", "freeze_step"):
        position, total = getattr(policy, name), policy.total_steps
        if position is None or total is None or resolve(position, total) <= total:
            continue
        return (
            f"{name} {position} lies beyond total_steps {total}; lower {name} or raise "
            "total_steps"
        )
    if policy.min_density > policy.max_density:
        return (
            f"min_density {policy.min_density:g} is above max_density "
            f"{policy.max_density:g}; lower min_density or raise max_density"
        )
    if learner.part == "tokens" and not policy.tokens:
        return f"the learner {learner.name} needs to know where; set tokens: {_FIRST}"
    if policy.rewrite != "none" and policy.tokens:
        return (
            f"tokens and rewrite {policy.rewrite!r} both change the structure; use one"
        )
    if policy.rewrite != "none" and learner.part != "weights":
        return (
            f"rewrite {policy.rewrite!r} makes layers for sparse weights, but the "
            f"learner {learner.name} masks none; choose a learner of weights, or set "
            "rewrite: none"
        )
    if policy.tokens and policy.budget_of == "selected":
        return (
            "tokens are dropped under a budget of the model, not of selected weights; "
            "set budget_of: model or maskable"
        )
    others = f"rewrite {policy.rewrite!r} makes new weights"
    if policy.rewrite == "none":
        others = f"the learner {learner.name} moves {learner.part}"
    if policy.masks == "nonzero" and not others.endswith(" moves weights"):
        return (
            f"masks 'nonzero' keeps weights zero that are, but {others}; leave masks "
            "out, or choose a learner of weights without a rewrite"
        )
    if learner.steady and policy.budget_ramp != "constant":
        return (
            f"the learner {learner.name} is sparse from the start, so a budget_ramp "
            f"{policy.budget_ramp!r} has no place; set budget_ramp: constant, or "
            "choose the learner granet or magnitude"
        )
    if policy.unit_density < 1 and "unit_density" not in learner.reads:
        return (
            f"unit_density {policy.unit_density:g} is for the learner soft_topk, which "
            f"masks weights inside units; this one is {learner.name}"
        )
    if policy.execution == "sparse" and (why := _learns_on(policy)):
        return f"execution 'sparse' stores kept weights alone, but {why}"
    everywhere = by_weights(function_of(policy.allocation))
    if policy.inclusive and (policy.keep_units or not everywhere):
        return (
            "inclusive draws one threshold through all layers; set allocation: "
            "cost_budget and keep_units: false, or inclusive: false"
        )
    return ""


def _learns_on(policy: Policy) -> str:
    """Why weights that are not kept are needed between updates; "" if they are not."""
    learner = learner_of(policy.learner)
    if not learner.stored or not learner.zeroes or learner.dense_gradients:
        return (
            f"with the learner {learner.name} more than those learn; choose rigl, set, "
            "granet, magnitude or fixed, or set execution: masked"
        )
    if "dropped" in learner.reads and policy.dropped == "hold":
        return "dropped 'hold' lets others come back; set dropped: zero"
    if "optimizer_state" in learner.reads and policy.optimizer_state == "keep":
        return "optimizer_state 'keep' is of others too; set optimizer_state: zero"
    if policy.growth_momentum > 0:
        return (
            "growth_momentum needs gradients of all at every step; set growth_momentum "
            "to 0, or execution: masked"
        )
    return ""


def unused(policy: Policy, known: Mapping[str, Setting]) -> list[str]:
    """One message for each setting that has no effect."""
    values = {name: getattr(policy, name) for name in known}
    changed = {n: v for n, v in values.items() if v != known[n].default}
    found = [
        f"layers[{pattern!r}] is empty; set {', '.join(LAYER_RULES)} or remove it"
        for pattern, options in policy.layers.items()
        if not options
    ]
    found += without_effect(known, values)
    learner = learner_of(policy.learner)
    for name in sorted({name for one in LEARNERS.values() for name in one.reads}):
        if name in changed and name not in learner.reads:
            readers = [one.name for one in LEARNERS.values() if name in one.reads]
            found.append(
                f"{name} {plain(values[name])} has no effect with the learner "
                f"{learner.name}; it is for {', '.join(readers)}"
            )
    if thin := _thin(policy):
        found.append(thin)
    given = {"densities": policy.densities}
    if policy.densities and not accepted(function_of(policy.allocation), given):
        takers = [name for name, one in ALLOCATIONS.items() if accepted(one, given)]
        found.append(
            "densities have no effect with this allocation; they are for "
            f"{', '.join(takers)}"
        )
    return found


def _thin(policy: Policy) -> str:
    """Says that hardly any update falls into the time in which masks move."""
    total, every = policy.total_steps, policy.interval()
    if total is None or every == 1:
        return ""
    schedule = policy.schedule()
    last = total if schedule.freeze is None else min(schedule.freeze, total)
    if policy.budget_ramp == "constant":
        begin, end, what = 0, last, "are all in which masks move"
    else:
        begin, end = schedule.progress.begin, min(schedule.progress.end, last)
        what = "are all in which the budget falls"
    updates = [step for step in range(every, end + 1, every) if step > begin]
    if len(updates) > _FEW or end - begin <= _TRIAL:
        return ""
    return (
        f"update_every {every} leaves {len(updates)} updates in steps {begin} to {end} "
        f"of {total}, which {what}; set update_every: "
        f"{max((end - begin) // (4 * _FEW + 2), 1)} or less"
    )
