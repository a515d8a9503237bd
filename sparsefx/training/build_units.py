"""From a model and a policy for units to the model with gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from sparsefx.errors import BudgetError, CaptureError, MaskError
from sparsefx.learners import learner_of
from sparsefx.masking.masked_module import mask_module, mirror, restore, run_graph
from sparsefx.masking.sparse_state import CHILD
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.find_units import find_units
from sparsefx.passes.gate_units import GateUnits
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.passes.units.unit_map import UnitGroup
from sparsefx.policies.policy import Policy
from sparsefx.settings.budget import parse_budget
from sparsefx.tracing.capture import capture
from sparsefx.tracing.offered_inputs import offered
from sparsefx.training.unit_state import UnitState
from sparsefx.training.unit_trainer import COSTS, UnitTrainer, assign, limits, situation


def build_units(
    model: nn.Module,
    policy: Policy,
    example_inputs: Any,
    *,
    inplace: bool,
    given: Mapping[str, Mapping[str, float]] | None = None,
) -> nn.Module:
    """Puts gates on the units of a model; see `sparsefx.transform`.

    With the learner of tokens there are no gates, only what counts and reports them.
    ``given`` is what the model cost before tokens were dropped, by cost name.

    Raises:
        CaptureError: the model is not one graph, or no inputs are known.
        MaskError: no unit is left to gate.
        BudgetError: the budget is below what no unit owns.
    """
    inputs = offered(model) if example_inputs is None else example_inputs
    if inputs is None:
        raise CaptureError("units are found in a graph: give example_inputs=(x,)")
    found = capture(model, inputs)
    if not found.whole:
        reason = next(iter(found.reasons.values()), "")
        raise CaptureError(
            f"units need the whole model as one graph; this {type(model).__name__} is "
            f"not ({reason}); use a policy for weights, or give other example_inputs"
        )
    table = cost_table(model, found.priced, found.observed)
    totals = {cost: table.totals()[cost]["total"] for cost in COSTS}
    learner = learner_of(policy.learner)
    gated = learner.part == "units"  # tokens alone gate none
    root = model if inplace else mirror(model)
    program = found.programs[""]
    parts = [SplitAttention()(part.module(root)) for _, part in program.parts()]
    maps = [find_units(part) for part in parts]
    groups = tuple(
        g
        for g in maps[-1].groups.values()
        if gated
        and _chosen(g, policy)
        and all(g.name in units.groups for units in maps)
    )
    if gated and not groups:
        why = "; ".join(f"{n}: {r}" for n, r in list(maps[-1].refused.items())[:4])
        raise MaskError(
            f"{type(model).__name__} has no units that include and exclude leave and "
            f"that can be removed by themselves ({why or 'none were found'})"
        )
    before = {
        cost: (given or {}).get(cost, {}).get("total", totals[cost]) for cost in COSTS
    }
    trainer = _trainer(policy, groups, totals, before)
    device = next((p.device for p in root.parameters()), None)
    state = UnitState(groups, device)
    state.__dict__["trainer"] = trainer
    try:
        root.add_module(CHILD, state)
        for index, (name, _) in enumerate(state.consumers):
            path, _, attribute = name.rpartition(".")
            owner = root.get_submodule(path)
            mask_module(owner, {attribute: index}, cast(Any, state))
        run_graph(root, program, cast(Any, state))
        for (_, one), units in zip(program.parts(), maps, strict=True):
            one.rebind()
            GateUnits(units, gates=state, path=CHILD)(one.module(root))
        phase = policy.schedule().at(0)
        if gated:
            tensors = dict(root.named_parameters(remove_duplicate=False))
            first = situation(tensors, state, trainer, phase.budget_progress)
            assign(state, learner.answer(replace(first, masks=None)))
    except BaseException:
        restore(root)
        raise
    return root


def _chosen(group: UnitGroup, policy: Policy) -> bool:
    path = group.name.rpartition(".")[0]

    def hit(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(path, p) or fnmatchcase(group.name, p) for p in patterns)

    return (not policy.include or hit(policy.include)) and not hit(policy.exclude)


def _trainer(
    policy: Policy,
    groups: tuple[UnitGroup, ...],
    totals: Mapping[str, float],
    given: Mapping[str, float],
) -> UnitTrainer:
    budget = parse_budget(policy.budget, policy.cost)[0]
    if budget.cost not in COSTS:
        raise BudgetError(
            f"budget of units is in {budget.cost}; units have {' and '.join(COSTS)}"
        )
    total = float(totals[budget.cost])
    limit = min(budget.limit(total), given[budget.cost])
    trainer = UnitTrainer(policy, groups, budget.cost, limit, total, totals, given)
    least = trainer.reserved + sum(
        trainer.price(g) * limits(g, policy)[0] for g in groups
    )
    if limit < least:
        raise BudgetError(
            f"budget {policy.budget!r} allows {limit:.6g} {budget.cost} of "
            f"{total:.6g}, but what no unit owns and one unit a group cost "
            f"{least:.6g}; raise the budget above {least / total:.1%}"
        )
    return trainer
