"""From a model and a policy for units to the model with gates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from sparsefx.errors import BudgetError, CaptureError, MaskError, PolicyError
from sparsefx.learners import learner_of
from sparsefx.masking.copies import mirror
from sparsefx.masking.masked_module import mask_module, restore, run_graph
from sparsefx.masking.site import Site
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.costs.cost_table import CostTable
from sparsefx.passes.find_units import find_units
from sparsefx.passes.gate_units import GateUnits
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.passes.units.unit_costs import among
from sparsefx.passes.units.unit_map import UnitGroup, UnitMap
from sparsefx.policies import function_of
from sparsefx.policies.policy import Policy
from sparsefx.policies.unit_bounds import bounds
from sparsefx.reports.report_rows import Coverage
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.patterns import Selection, named_by
from sparsefx.training.life import Life
from sparsefx.training.plan import Plan, Target
from sparsefx.training.token_part import token_part
from sparsefx.training.unit_gates import GateState, columns_of
from sparsefx.training.unit_part import UnitPart
from sparsefx.training.weight_coverage import left_apart, selections
from sparsefx.training.whole_graph import Start

if TYPE_CHECKING:
    import sympy

COSTS = ("macs", "params")
Totals = Mapping[str, float]


def build_units(start: Start, *, inplace: bool, strict: bool) -> nn.Module:
    """Puts gates on the units of a model; see `sparsefx.transform`.

    With the learner of tokens there are no gates, only what counts and reports them.

    Raises:
        CaptureError: the model is not one graph, or no inputs are known.
        MaskError: no unit is left to gate, or ``strict`` and a weight has none.
        PolicyError: a setting has no meaning for units.
        BudgetError: the budget is below what no unit owns.
    """
    found, policy, model = start.found, start.policy, start.found.root
    if found.inputs is None:
        raise CaptureError("units are found in a graph: give example_inputs=(x,)")
    if not found.whole:
        reason = next(iter(found.reasons.values()), "")
        raise CaptureError(
            f"units need the whole model as one graph; this {type(model).__name__} is "
            f"not ({reason}); use a policy for weights, or give other example_inputs"
        )
    table = cost_table(model, found.priced, found.observed)
    totals = {cost: float(table.totals()[cost]["total"]) for cost in COSTS}
    before = {cost: float(start.original.get(cost, totals[cost])) for cost in COSTS}
    root = model if inplace else mirror(model)
    program = found.programs[""]
    maps = [find_units(SplitAttention()(p.module(root))) for _, p in program.parts()]
    groups, chosen = _selected(model, policy, maps)
    told = _told(model, policy, maps[-1], chosen)
    reasons = {**maps[-1].refused, **told}
    plan = _plan(root, policy, groups, chosen, reasons, totals, before)
    if strict:
        _refuse_missed(plan, table, told)
    part = _part(root, plan, groups)
    try:
        life = Life(plan)
        tokens = token_part(root, plan)
        for each in (tokens, part) if tokens else (part,):
            life.add(each)
        root.add_module(CHILD, life)
        for index, name in enumerate(part.gated):
            owner, attribute = part.owners[name]
            mask_module(owner, {attribute: index}, part.state)
        run_graph(root, program, life)
        for (_, one), units in zip(program.parts(), maps, strict=True):
            one.rebind()
            gate_graph(one.module(root), units, part, life)
        life.begin()
    except BaseException:
        restore(root)
        raise
    return root


def gate_graph(bound: Any, units: UnitMap, part: UnitPart, life: Life) -> None:
    """Puts the gates of a part into a graph."""
    bound._modules.setdefault(CHILD, life)
    GateUnits(units, gates=part.state, path=f"{CHILD}.{part.name}")(bound)


def group_site(group: UnitGroup, bounded: Selection) -> Site:
    """A group of units as a site: it keeps at least one."""
    import sympy

    one = 1 / group.size
    low = max(bounded.min_density, one)
    costs: dict[str, sympy.Expr] = {
        "macs": sympy.Float(group.macs),
        "params": sympy.Float(group.params),
    }
    return Site(
        name=group.name,
        module=group.name.rpartition(".")[0],
        op=group.kind,
        shape=(group.size,),
        costs=costs,
        min_density=low,
        max_density=max(bounded.max_density, low),
        round_to=bounded.round_to,
    )


def owned(sites: Sequence[Site], cost: str) -> float:
    """What all units cost."""
    return math.fsum(site.cost(cost) * site.numel for site in sites)


def _selected(
    model: nn.Module, policy: Policy, maps: Sequence[UnitMap]
) -> tuple[tuple[UnitGroup, ...], dict[str, Selection]]:
    """The groups to gate, and what the policy's patterns say of all groups."""
    if learner_of(policy.learner).part != "units":
        return (), {}  # tokens alone gate none
    every = [
        group
        for group in maps[-1].groups.values()
        if all(group.name in units.groups for units in maps)
    ]
    if not every:
        why = "; ".join(f"{n}: {r}" for n, r in list(maps[-1].refused.items())[:4])
        raise MaskError(
            f"{type(model).__name__} has no units that can be removed by themselves "
            f"({why or 'none were found'})"
        )
    dense = left_apart(model)
    apart = {
        group.name: f"{name} is {dense[name]}"
        for group in every
        for name in (*group.producers, *group.consumers)
        if name in dense
    }
    names = [(group.name, group.name.rpartition(".")[0]) for group in every]
    chosen = selections(policy, names, apart)
    for name, choice in chosen.items():
        if choice.granularity != "unstructured":
            raise PolicyError(
                f"granularity {choice.granularity!r} has no meaning for {name}: the "
                f"learner {learner_of(policy.learner).name} keeps or drops whole units;"
                " leave it out, or choose a learner of weights"
            )
    own = [group.name for group in every if chosen[group.name].selected]
    return among(maps[-1], own), chosen


def _told(
    model: nn.Module, policy: Policy, units: UnitMap, chosen: Mapping[str, Selection]
) -> dict[str, str]:
    """By parameter, why it has no gates where it was not to have any."""
    told = {} if policy.include else left_apart(model)
    for name, choice in chosen.items():
        if not choice.selected:
            for share in units.groups[name].tensors:
                told.setdefault(share.name, choice.reason)
    return told


def _plan(
    root: nn.Module,
    policy: Policy,
    groups: Sequence[UnitGroup],
    chosen: Mapping[str, Selection],
    reasons: Mapping[str, str],
    totals: Totals,
    before: Totals,
) -> Plan:
    sites = tuple(group_site(group, chosen[group.name]) for group in groups)
    fixed = {cost: totals[cost] - owned(sites, cost) for cost in COSTS}
    targets = []
    for budget in parse_budget(policy.budget, policy.cost, tuple(policy.costs)):
        cost = budget.cost
        if cost not in COSTS:
            raise BudgetError(
                f"budget of units is in {cost}; units have {' and '.join(COSTS)}"
            )
        limit = min(budget.limit(totals[cost]), before[cost])
        least = fixed[cost] + sum(site.cost(cost) * bounds(site)[0] for site in sites)
        if limit < least:
            raise BudgetError(
                f"budget {policy.budget!r} allows {limit:.6g} {cost} of "
                f"{totals[cost]:.6g}, but what no unit owns and the least number of "
                f"units cost {least:.6g}; raise the budget above "
                f"{least / totals[cost]:.1%}"
            )
        targets.append(Target(cost, limit, fixed[cost]))
    shares = {share.name for group in groups for share in group.tensors}
    coverage = tuple(
        Coverage(
            name, name.rpartition(".")[0], "graph" if name in shares else None, why
        )
        for name, _ in root.named_parameters()
        for why in (
            "" if name in shares else reasons.get(name, "no unit owns a part of it"),
        )
    )
    given = {cost: before[cost] - fixed[cost] for cost in COSTS}
    function = function_of(policy.allocation)
    if hasattr(function, "prepare"):
        raise PolicyError(
            f"allocation {policy.allocation!r} measures weights, and has no meaning "
            "for units; choose cost_budget, uniform, layerwise, or a function"
        )
    return Plan(policy, sites, (), tuple(targets), fixed, coverage, given, function)


def _part(root: nn.Module, plan: Plan, groups: tuple[UnitGroup, ...]) -> UnitPart:
    device = next((p.device for p in root.parameters()), None)
    columns = columns_of(groups)
    learner = learner_of(plan.policy.learner)
    state = GateState(groups, list(columns.values()), scored=learner.scores).to(device)
    parameters = dict(root.named_parameters(remove_duplicate=False))
    names = {share.name for group in groups for share in group.tensors}
    owners = {}
    for name in parameters:
        if name in names:
            path, _, attribute = name.rpartition(".")
            owners[name] = (root.get_submodule(path), attribute)
    return UnitPart(plan, groups, state, owners, learner, tuple(columns))


def _refuse_missed(plan: Plan, table: CostTable, told: Mapping[str, str]) -> None:
    policy = plan.policy
    missed = [
        row
        for row in plan.coverage
        if row.masked is None
        and row.parameter not in told
        and table[row.parameter].maskable
        and named_by((row.parameter, row.module), policy.include, policy.exclude)[0]
    ]
    if missed:
        text = "; ".join(f"{row.parameter} ({row.reason})" for row in missed[:5])
        raise MaskError(
            f"{len(missed)} weights have no units that can be removed: {text}; "
            "exclude them, or drop strict=True"
        )
