"""The part of units: gates on heads, neurons and channels, moved by a learner.

A group of units is a site of the plan, whose entries are units: budgets, bounds and
multiples are those of any site.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparsefx.learners.learner import Decision, Learner, Situation
from sparsefx.learners.units import by_magnitude
from sparsefx.masking.rank_means import mean_over_ranks
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import Owner
from sparsefx.passes.units.unit_map import UnitGroup
from sparsefx.passes.units.unit_scores import magnitudes
from sparsefx.reports.report_rows import LayerReport
from sparsefx.training.layer_rows import layer_rows
from sparsefx.training.part import Moment, Part, Proposal, Write
from sparsefx.training.plan import Plan
from sparsefx.training.unit_gates import GateState


@dataclass(slots=True, eq=False)
class UnitPart(Part):
    """The gated units of a model.

    Attributes:
        plan: what was asked for; a site is a group.
        groups: the units.
        state: their gates.
        owners: by name of a parameter, the module and attribute that hold it.
        learner: how gates move.
        gated: parameters that `bake` multiplies gates into, in the order of the sites.
        name: of the state.
    """

    plan: Plan
    groups: tuple[UnitGroup, ...]
    state: GateState
    owners: Mapping[str, Owner]
    learner: Learner
    gated: Sequence[str] = ()
    name: str = "units"

    @torch.no_grad()
    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """See `Part.begin`."""
        if not self.groups:
            return []
        situation = replace(self._situation(moment), masks=None, drop_fraction=0.0)
        answer = self.learner.answer if drawn else by_magnitude
        return self._assigned(answer(situation))[1]

    @torch.no_grad()
    def moved(self, moment: Moment) -> tuple[list[Tensor], list[Write]]:
        """The gates after an update, and what makes them so."""
        gates, writes = self._assigned(self.learner.answer(self._situation(moment)))
        return gates, [*writes, *(partial(t.zero_) for t in self.state.tallies())]

    @torch.no_grad()
    def propose(self, moment: Moment) -> Proposal:
        """See `Part.propose`."""
        before = gates = self.state.gates()
        writes: list[Write] = []
        if moment.phase.update and self.groups and not moment.frozen:
            gates, writes = self.moved(moment)
        counts = [int((gate != 0).sum()) for gate in gates]
        missing = [float(((gate != 0).float() - gate.float()).sum()) for gate in gates]
        hard = self.plan.spent(counts)
        pairs = zip(gates, before, strict=True)
        moves = sum(int(((a != 0) ^ (b != 0)).sum()) for a, b in pairs)
        soft = tuple(
            cost
            - math.fsum(
                p * m for p, m in zip(self.plan.prices(target), missing, strict=True)
            )
            for cost, target in zip(hard, self.plan.targets, strict=True)
        )
        return Proposal(
            writes=writes,
            counts=counts,
            soft=soft,
            bought=math.fsum(float(gate.sum()) for gate in gates),
            changed=moves / max(sum(group.size for group in self.groups), 1),
            beta=moment.phase.beta,
        )

    def latent(self) -> list[Tensor]:
        """See `Part.latent`."""
        return list(self._tensors().values())

    def let_follow(self, follow: Callable[[], None] | None) -> None:
        """See `Part.let_follow`."""
        self.state.follow = follow

    def masks(self) -> dict[str, Tensor]:
        """Whether each unit is kept, by group."""
        return {name: self.state[name] != 0 for name in self.state.names}

    def counts(self) -> tuple[int, ...]:
        """Kept units of each group."""
        return tuple(int(mask.sum()) for mask in self.masks().values())

    def sites(self) -> tuple[Site, ...]:
        """The groups."""
        return self.plan.sites

    def reached(self, kept: Mapping[str, float], frozen: bool) -> Mapping[str, float]:
        """See `Part.reached`: of all units, while closed ones are scored."""
        scored = self.learner.scores and not frozen
        return dict.fromkeys(kept, 1.0) if scored else kept

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """See `Part.rows`."""
        return layer_rows(self.plan.sites, self.counts(), costs, "unit")

    @torch.no_grad()
    def bake(self) -> None:
        """Multiplies gates into the weights behind them.

        Columns of removed units are exactly zero, so that `ShrinkUnits` cuts them.
        """
        for index, name in enumerate(self.gated):
            weight = self._tensors()[name]
            weight.copy_(self.state.masked(weight, index))
            weight.grad = None

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, (owner, attribute) in self.owners.items():
            weight = owner._parameters[attribute]
            assert weight is not None
            found[name] = weight
        return found

    def _assigned(self, found: Decision) -> tuple[list[Tensor], list[Write]]:
        """A learner's gates, and what makes them those of the state."""
        gates = found.gates or [mask.float() for mask in found.masks]
        olds = self.state.gates()
        news = [new.to(old) for new, old in zip(gates, olds, strict=True)]
        pairs = zip(olds, news, strict=True)
        return news, [partial(old.copy_, new) for old, new in pairs]

    def _situation(self, moment: Moment) -> Situation:
        """Groups as sites: by what units are kept and by what they are grown."""
        plan, tensors, scores = self.plan, self._tensors(), self.state.scores()
        values: list[Tensor] = []
        grows: list[Tensor | None] = []
        for group in self.groups:
            value = magnitudes(group, tensors)
            seen = scores.get(group.name)
            grow = None
            if seen is not None:
                first, second = (
                    mean_over_ranks(seen[kind], self.state.data)
                    for kind in ("taylor", "growth")
                )
                heads = group.kind == "heads"
                value = first if heads and self.learner.scores else value
                grow = second if heads else first
            values.append(value)
            grows.append(grow)
        allowed = plan.allowed(moment.phase.budget_progress)
        budget, *more = plan.limits(allowed).amounts
        prices, *others = plan.limits(allowed).costs
        means = [max(float(value.mean()), 1e-30) for value in values]
        return Situation(
            names=[group.name for group in self.groups],
            values=values,
            prices=prices,
            worths=[price / mean for price, mean in zip(prices, means, strict=True)],
            limits=plan.bounds(allowed, values),
            budget=budget,
            further=list(zip(others, more, strict=True)),
            masks=[mask.cpu() for mask in self.masks().values()],
            scores=grows,
            drop_fraction=moment.phase.drop_fraction,
            beta=moment.phase.beta,
            seed=plan.policy.seed + moment.taken,
        )
