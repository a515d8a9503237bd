"""The life of a model whose units are learned: build, step, report, finalize."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsefx.budget import parse_budget
from sparsefx.capture import capture
from sparsefx.distributed import mean_over_ranks
from sparsefx.errors import BudgetError, CaptureError, MaskError
from sparsefx.example_inputs import offered
from sparsefx.learners.situation import Situation
from sparsefx.learners.units import Gates, decide, start
from sparsefx.masked_module import duplicate, mask_module, mirror, restore, run_graph
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.find_units import find_units
from sparsefx.passes.gate_units import GateUnits
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.policy import Policy
from sparsefx.report import (
    BudgetReport,
    Cost,
    Coverage,
    HistoryPoint,
    LayerReport,
    Report,
    Total,
)
from sparsefx.state import CHILD
from sparsefx.step_report import StepReport
from sparsefx.unit_scores import magnitudes
from sparsefx.unit_state import UnitState
from sparsefx.units import UnitGroup

_COSTS = ("macs", "params")


@dataclass(slots=True)
class UnitTrainer:
    """What a model with unit gates remembers between steps, beside its buffers.

    Attributes:
        policy: the settings.
        groups: the units that are gated.
        cost: name of the budget's cost.
        limit: the target cost of the whole model.
        total: its cost with all units.
        dense: by cost name, the cost of the whole model.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
    """

    policy: Policy
    groups: tuple[UnitGroup, ...]
    cost: str
    limit: float
    total: float
    dense: Mapping[str, float]
    history: list[HistoryPoint] = field(default_factory=list)
    finalized: bool = False

    def price(self, group: UnitGroup, cost: str = "") -> float:
        """What one unit of a group costs."""
        return float(group.macs if (cost or self.cost) == "macs" else group.params)

    @property
    def reserved(self) -> float:
        """The cost of all that no unit owns."""
        owned = math.fsum(self.price(g) * g.size for g in self.groups)
        return self.total - owned

    def allowed(self, progress: float) -> float:
        """The budget at a share of the way from the initial one to the target."""
        first = max(self.policy.initial_budget * self.total, self.limit)
        return self.limit if progress >= 1 else first + (self.limit - first) * progress

    def spent(self, masks: Mapping[str, Tensor], cost: str = "") -> float:
        """The cost of the whole model with these units."""
        name = cost or self.cost
        gone = math.fsum(
            self.price(g, name) * int((~masks[g.name]).sum()) for g in self.groups
        )
        return self.dense[name] - gone


def build_units(
    model: nn.Module, policy: Policy, example_inputs: Any, *, inplace: bool
) -> nn.Module:
    """Puts gates on the units of a model; see `sparsefx.transform`.

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
    totals = {cost: table.totals()[cost]["total"] for cost in _COSTS}
    root = model if inplace else mirror(model)
    program = found.programs[""]
    parts = [SplitAttention()(part.module(root)) for _, part in program.parts()]
    maps = [find_units(part) for part in parts]
    groups = tuple(
        g
        for g in maps[-1].groups.values()
        if _chosen(g, policy) and all(g.name in units.groups for units in maps)
    )
    if not groups:
        why = "; ".join(f"{n}: {r}" for n, r in list(maps[-1].refused.items())[:4])
        raise MaskError(
            f"{type(model).__name__} has no units that include and exclude leave and "
            f"that can be removed by themselves ({why or 'none were found'})"
        )
    trainer = _trainer(policy, groups, totals)
    device = next((p.device for p in root.parameters()), None)
    state = UnitState(groups, device)
    state.__dict__["trainer"] = trainer
    try:
        root.add_module(CHILD, state)
        for index, (name, _) in enumerate(state.consumers):
            path, _, attribute = name.rpartition(".")
            owner = root.get_submodule(path)
            mask_module(owner, {attribute: index}, cast(Any, state))
        for part, units in zip(parts, maps, strict=True):
            GateUnits(units, gates=state, path=CHILD)(part)
        run_graph(root, program, cast(Any, state))
        phase = policy.schedule().at(0)
        situation = _situation(root, state, trainer, phase.budget_progress, 0.0)
        _assign(state, start(situation, policy.learner))
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
    policy: Policy, groups: tuple[UnitGroup, ...], totals: Mapping[str, float]
) -> UnitTrainer:
    budget = parse_budget(policy.budget, policy.cost)[0]
    if budget.cost not in _COSTS:
        raise BudgetError(
            f"budget of units is in {budget.cost}; units have {' and '.join(_COSTS)}"
        )
    total = float(totals[budget.cost])
    limit = min(budget.limit(total), total)
    trainer = UnitTrainer(policy, groups, budget.cost, limit, total, totals)
    least = trainer.reserved + sum(
        trainer.price(g) * _limits(g, policy)[0] for g in groups
    )
    if limit < least:
        raise BudgetError(
            f"budget {policy.budget!r} allows {limit:.6g} {budget.cost} of "
            f"{total:.6g}, but what no unit owns and one unit a group cost "
            f"{least:.6g}; raise the budget above {least / total:.1%}"
        )
    return trainer


def _limits(group: UnitGroup, policy: Policy) -> tuple[int, int]:
    low = max(1, math.ceil(policy.min_density * group.size - 1e-9))
    return low, max(low, math.floor(policy.max_density * group.size + 1e-9))


def _situation(
    root: nn.Module,
    state: UnitState,
    trainer: UnitTrainer,
    progress: float,
    drop_fraction: float,
) -> Situation:
    """Groups as sites: by what units are kept and by what they are grown."""
    parameters = dict(root.named_parameters(remove_duplicate=False))
    tensors: dict[str, Tensor] = {n: p.detach() for n, p in parameters.items()}
    scores = state.scores()
    values: list[Tensor] = []
    grows: list[Tensor | None] = []
    for group in trainer.groups:
        value = magnitudes(group, tensors)
        seen = scores.get(group.name)
        grow = None
        if seen is not None:
            first, second = (mean_over_ranks(seen[k]) for k in ("taylor", "growth"))
            heads = group.kind == "heads"
            value = first if heads and _taylor(trainer) else value
            grow = second if heads else first
        values.append(value)
        grows.append(grow)
    means = [max(float(value.mean()), 1e-30) for value in values]
    prices = [trainer.price(group) for group in trainer.groups]
    pairs = zip(prices, means, strict=True)
    return Situation(
        names=[group.name for group in trainer.groups],
        values=values,
        prices=prices,
        worths=[price / mean for price, mean in pairs],
        limits=[_limits(group, trainer.policy) for group in trainer.groups],
        budget=trainer.allowed(progress) - trainer.reserved,
        masks=[state.masks()[g.name].cpu() for g in trainer.groups],
        scores=grows,
        drop_fraction=drop_fraction,
        seed=trainer.policy.seed + int(state.step),
    )


def _taylor(trainer: UnitTrainer) -> bool:
    return trainer.policy.learner == "units_taylor"


def _assign(state: UnitState, found: Gates) -> None:
    for name, gate in zip(state.names, found.gates, strict=True):
        state.set(name, gate.to(state[name].device))


@torch.no_grad()
def advance_units(root: nn.Module, state: UnitState) -> StepReport:
    """Counts one optimizer step and moves the gates as the schedule says."""
    trainer: UnitTrainer = state.__dict__["trainer"]
    policy = trainer.policy
    phase = policy.schedule().at(int(state.step) + 1)
    before = state.masks()
    if phase.update and not bool(state.frozen):
        situation = _situation(
            root, state, trainer, phase.budget_progress, phase.drop_fraction
        )
        _assign(state, decide(situation, policy.learner, phase.beta))
        state.clear()
    if phase.frozen:
        state.frozen.fill_(True)
    state.step += 1
    masks = state.masks()
    hard, budget = trainer.spent(masks), trainer.allowed(phase.budget_progress)
    gates = torch.cat([state[g.name].cpu() for g in trainer.groups])
    soft = hard - math.fsum(
        trainer.price(g) * float((masks[g.name] - state[g.name]).sum())
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
        changed=moved / len(gates),
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
            for cost in _COSTS
        }
        density = kept / group.size
        row = LayerReport(group.name, group.kind, (group.size,), "unit", density, costs)
        rows.append(row)
    totals = {}
    for cost in _COSTS:
        kept_cost = sum(row.costs[cost].kept for row in rows)
        dense = sum(row.costs[cost].dense for row in rows)
        fixed = trainer.dense[cost] - dense
        totals[cost] = Total(kept_cost, dense, fixed, dense)
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
