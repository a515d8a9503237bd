"""From a model's graphs and a policy to the sparse model: price, select, insert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparsefx.errors import MaskError, PolicyError
from sparsefx.lowering.latency_costs import Timed, timed
from sparsefx.masking.candidates import Candidates
from sparsefx.masking.copies import mirror
from sparsefx.masking.masked_module import mask_module, restore, run_graph
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import SparseState
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.annotate_costs import AnnotateCosts, cost_table
from sparsefx.passes.costs.cost_table import CostRow, CostTable
from sparsefx.passes.insert_masks import InsertMasks
from sparsefx.policies import function_of
from sparsefx.policies.latency_line import Line
from sparsefx.policies.policy_function import Context, prepared
from sparsefx.policies.site_costs import with_costs
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.granularity import Granularity
from sparsefx.settings.patterns import Selection
from sparsefx.tracing.capture import Capture
from sparsefx.training.budget_targets import floored, targets_of
from sparsefx.training.build_units import gate_graph
from sparsefx.training.life import Life
from sparsefx.training.plan import Plan
from sparsefx.training.soft_weights import SoftWeights
from sparsefx.training.stored_rules import keeps_masks, wide
from sparsefx.training.stored_weights import StoredWeights
from sparsefx.training.token_part import token_part
from sparsefx.training.units_around import maps_of, units_around
from sparsefx.training.weight_coverage import (
    check_coverage,
    coverage_of,
    left_apart,
    selections,
    without_misfits,
)
from sparsefx.training.whole_graph import Start


def build(
    start: Start,
    *,
    inplace: bool,
    strict: bool,
    calibration: Sequence[tuple[Any, Any]] = (),
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> nn.Module:
    """Builds the sparse model; see `sparsefx.transform`."""
    plan, macs = plan_of(start, strict=strict, calibration=calibration, loss=loss)
    return _install(plan, start.found, inplace, macs)


def plan_of(
    start: Start,
    *,
    strict: bool = False,
    calibration: Sequence[tuple[Any, Any]] = (),
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> tuple[Plan, float]:
    """What a policy asks of a model, checked, and the model's MACs; nothing is changed.

    Raises:
        MaskError: there is nothing to mask, or ``strict`` and a weight stays dense.
        PolicyError, BudgetError: the policy does not fit the model.
    """
    found, policy, model = start.found, start.policy, start.found.root
    table = cost_table(model, found.priced, found.observed)
    table = table.at(policy.sizes)
    weights = {row.name: row for row in table if row.maskable}
    if not weights:
        raise MaskError(_nothing(model, table))
    parameters = dict(model.named_parameters())
    others = _other_names(model)
    chosen = selections(
        policy,
        [
            (name, table[name].module, *others[name])
            for name, p in parameters.items()
            if p.ndim >= 2
        ],
        left_apart(model),
    )
    made = {
        name: _site(row, chosen[name], parameters[name], others[name])
        for name, row in weights.items()
    }
    if policy.fallback == "dense":
        chosen, made = without_misfits(chosen, made)
    masked = [chosen[name].selected for name in made]
    priced_sites = with_costs(tuple(made.values()), policy, masked)
    made = {site.name: site for site in priced_sites}
    sites = tuple(site for name, site in made.items() if chosen[name].selected)
    for site in sites:
        _ = site.groups  # refuse what cannot be cut before anything else
    dense = tuple(site for name, site in made.items() if not chosen[name].selected)
    if not sites:
        raise MaskError(
            f"include and exclude leave no weight of {type(model).__name__} that can "
            f"be masked; those that can are {', '.join(list(weights)[:8])}"
        )
    fixed = {cost: total["fixed"] for cost, total in table.totals().items()}
    asked = parse_budget(policy.budget, policy.cost, tuple(policy.costs))
    clock = partial(
        timed, model, found.inputs, asked, sites, dense, precision=policy.precision
    )
    times: Timed | None = None

    def latencies() -> Mapping[str, Line]:
        nonlocal times
        times = times or clock(every=True)
        return times.latencies.lines if times is not None else {}

    context = Context(asked, found.inputs, calibration, loss, latencies)
    function = prepared(function_of(policy.allocation), model, sites, context)
    times = times or clock()
    if times is not None:
        sites, dense = times.sites, times.dense
    elif policy.precision != "exact":
        raise PolicyError(
            f"precision {policy.precision!r} is for budgets of milliseconds, and none "
            'is asked for; set a budget of latency_ms, such as budget: "3 ms", or give '
            "precision to sparsefx.lower alone"
        )
    priced = found.inputs is not None
    targets = targets_of(policy, function, sites, dense, priced, fixed, times)
    covered = coverage_of(model, table, weights, chosen, found)
    plan = Plan(policy, sites, dense, targets, fixed, covered, start.original, function)
    plan = replace(plan, sites=floored(plan))
    # refuse before touching
    plan.bounds(plan.allowed(1.0), [parameters[s.name] for s in sites])
    check_coverage(model, covered, found, strict)
    return plan, float(table.totals()["macs"]["total"])


def _nothing(model: nn.Module, table: CostTable) -> str:
    """Why a model has no weight to mask, by the first weights' names."""
    text = (
        f"{type(model).__name__} has no weight to mask: no parameter of two or more "
        "dimensions is multiplied with an activation as it is"
    )
    large = [name for name, p in model.named_parameters() if p.ndim >= 2]
    reasons = [f"{name}: {table[name].reason}" for name in large[:3]]
    return f"{text} ({'; '.join(reasons)})" if reasons else text


def _other_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """By the name of a parameter, what else it and its owners are called."""
    called: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        called.setdefault(id(value), []).append(name)
    return {
        first: tuple(part for one in rest for part in (one, one.rpartition(".")[0]))
        for first, *rest in called.values()
    }


def _site(
    row: CostRow, chosen: Selection, parameter: nn.Parameter, others: tuple[str, ...]
) -> Site:
    low, high = chosen.min_density, chosen.max_density
    if not chosen.selected:
        low = high = 1.0
    granularity = Granularity.parse(chosen.granularity)
    return Site(
        name=row.name,
        module=row.module,
        op=row.op,
        shape=row.shape,
        costs=row.per_weight(),
        sizes=dict(row.sizes),
        granularity=granularity if chosen.selected else Granularity(),
        round_to=chosen.round_to,
        min_density=low,
        max_density=high,
        weight=parameter,
        others=others,
    )


def _install(plan: Plan, found: Capture, inplace: bool, macs: float) -> nn.Module:
    root = found.root if inplace else mirror(found.root)
    numbers = {site.name: index for index, site in enumerate(plan.sites)}
    named = dict(root.named_parameters())
    index_of = {id(named[name]): index for name, index in numbers.items()}
    owners: list[list[tuple[nn.Module, str]]] = [[] for _ in plan.sites]
    for module in root.modules():
        for attribute, value in module._parameters.items():
            if value is not None and id(value) in index_of:
                owners[index_of[id(value)]].append((module, attribute))
    names, policy = [site.name for site in plan.sites], plan.policy
    state = SparseState(
        names,
        owners,
        [(str(site.granularity), site.op) for site in plan.sites],
        budgets=len(plan.targets),
        stored=keeps_masks(policy),
        wide=wide(policy),
        lasting=policy.soft_when_frozen and not keeps_masks(policy),
    )
    if policy.masks == "nonzero":
        state.candidates = Candidates(state.weights())
    life, tokens = Life(plan), token_part(root, plan)
    if tokens is not None:
        life.add(tokens)
    try:
        root.add_module(CHILD, life)
        mask_module(root, {}, state)  # also where it owns no weight and has no graph
        for index, entries in enumerate(owners):
            for module, attribute in entries:
                mask_module(module, {attribute: index}, state)
        maps = maps_of(root, found) if policy.unit_density < 1 else []
        units = units_around(root, state, plan, macs, maps) if maps else None
        state.units = units and units.state
        soft = SoftWeights(plan, state, units=units)
        life.add(StoredWeights(plan, state) if keeps_masks(policy) else soft)
        _insert(root, life, found, index_of)
        if units is not None:
            for (_, each), places in zip(found.programs[""].parts(), maps, strict=True):
                gate_graph(each.module(root), places, units, life)
        life.begin()
    except BaseException:
        restore(root)  # it may be the user's own
        raise
    return root


def _insert(
    root: nn.Module, life: Life, found: Capture, index_of: Mapping[int, int]
) -> None:
    """Annotates and masks the graphs, and makes their modules run them."""
    for path, program in found.programs.items():
        owner = root.get_submodule(path)
        local = {
            name: index_of[id(value)]
            for name, value in owner.named_parameters(remove_duplicate=False)
            if id(value) in index_of
        }
        run_graph(owner, program, life)
        for _, part in program.parts():
            part.rebind()
            bound = part.module(owner)
            if found.inputs is not None:
                AnnotateCosts()(bound)
            InsertMasks(local, life)(bound)
