"""What a model whose units are learned was asked for, and what its units are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsefx.learners import learner_of
from sparsefx.learners.learner import Decision, Situation
from sparsefx.masking.rank_means import mean_over_ranks
from sparsefx.passes.units.unit_map import UnitGroup
from sparsefx.passes.units.unit_scores import magnitudes
from sparsefx.policies.policy import Policy
from sparsefx.reports.report import HistoryPoint
from sparsefx.training.unit_state import UnitState

COSTS = ("macs", "params")


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
        given: that cost before tokens were dropped.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
    """

    policy: Policy
    groups: tuple[UnitGroup, ...]
    cost: str
    limit: float
    total: float
    dense: Mapping[str, float]
    given: Mapping[str, float]
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


def limits(group: UnitGroup, policy: Policy) -> tuple[int, int]:
    """Least and greatest number of units of a group; never none."""
    low = max(1, math.ceil(policy.min_density * group.size - 1e-9))
    return low, max(low, math.floor(policy.max_density * group.size + 1e-9))


def situation(
    tensors: Mapping[str, Tensor],
    state: UnitState,
    trainer: UnitTrainer,
    progress: float,
    drop_fraction: float = 0.0,
    beta: float = 1.0,
) -> Situation:
    """Groups as sites: by what units are kept and by what they are grown.

    Args:
        tensors: parameters by name.
        state: the gates.
        trainer: what was asked for.
        progress: share of the way to the target budget.
        drop_fraction: share of the kept units that move.
        beta: inverse temperature of soft gates.
    """
    scores = state.scores()
    scored = learner_of(trainer.policy.learner).scores
    values: list[Tensor] = []
    grows: list[Tensor | None] = []
    for group in trainer.groups:
        value = magnitudes(group, tensors)
        seen = scores.get(group.name)
        grow = None
        if seen is not None:
            first, second = (mean_over_ranks(seen[k]) for k in ("taylor", "growth"))
            heads = group.kind == "heads"
            value = first if heads and scored else value
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
        limits=[limits(group, trainer.policy) for group in trainer.groups],
        budget=trainer.allowed(progress) - trainer.reserved,
        masks=[state.masks()[g.name].cpu() for g in trainer.groups],
        scores=grows,
        drop_fraction=drop_fraction,
        beta=beta,
        seed=trainer.policy.seed + int(state.step),
    )


def assign(state: UnitState, found: Decision) -> None:
    """Takes over a learner's gates."""
    gates = found.gates or [mask.float() for mask in found.masks]
    for name, gate in zip(state.names, gates, strict=True):
        state.set(name, gate.to(state[name].device))
