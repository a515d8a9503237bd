"""The part of weights that Spartan's soft top-k masks, solved anew at each update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from sparsefx.kernels import SoftSums, kernels_for
from sparsefx.kernels.bits import unpack
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.lasting_masks import LastingMasks, factors
from sparsefx.masking.mask_vectors import solved, standing
from sparsefx.masking.read_masks import entry_bits, entry_counts, weight_bits
from sparsefx.masking.sparse_state import Vectors
from sparsefx.reports.report_rows import LayerReport
from sparsefx.settings.schedule import Phase
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solution import Cut, Solution
from sparsefx.solver.solve import solve
from sparsefx.solver.survey_bands import ahead
from sparsefx.training.device_step import DeviceStep
from sparsefx.training.part import Moment, Proposal, Write
from sparsefx.training.step_report import StepReport
from sparsefx.training.unit_part import UnitPart
from sparsefx.training.weight_part import WeightPart


@dataclass(slots=True, eq=False)
class SoftWeights(WeightPart):
    """Weights whose masks the weights and a few scalars give.

    Attributes:
        units: gates around the weights, moved first.
        cuts: where masks were decided at the last update; only saves time.
        expected: where they will be at the next; only saves time.
        device: of steps that are taken without the host.
    """

    units: UnitPart | None = None
    cuts: Sequence[Cut] | None = None
    expected: Sequence[Cut] | None = None
    device: DeviceStep = field(default_factory=DeviceStep)

    @torch.no_grad()
    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """See `Part.begin`."""
        gates, closed = self._moved(moment, update=drawn)
        flats = self.state.values(gates)
        found, remembered = self._solved(moment.phase, flats)
        vectors = solved(self.state, found, moment.phase.beta)
        masks = self._decided(flats, vectors)[0]
        moving = partial(setattr, self.state, "still", None)
        return [*closed, *remembered, *self.state.writes(vectors), *masks, moving]

    @torch.no_grad()
    def propose(self, moment: Moment) -> Proposal:
        """See `Part.propose`."""
        plan, phase, state = self.plan, moment.phase, self.state
        if moment.frozen:
            held = self.hold() if state.lasting is None else self._lasts(state.lasting)
            return replace(held, writes=[*held.writes, self._told()])
        later = self.device.advance(state, plan, moment)
        if later is not None:
            names = ("cuts", "expected")
            forgotten = [partial(setattr, self, each, None) for each in names]
            return Proposal(writes=forgotten, later=later)
        gates, writes = self._moved(moment, update=phase.update)
        flats = state.values(gates)
        bits: Sequence[Tensor] = state.bits()
        found, vectors = None, state.vectors()
        known: tuple[int, Sequence[float], Sequence[float]] | None = None
        if phase.update:
            found, remembered = self._solved(phase, flats)
            vectors = solved(state, found, phase.beta)
            masks, bits, counts, changed = self._decided(flats, vectors)
            writes += [*remembered, *state.writes(vectors), *masks]
            pairs = zip(plan.targets, found.soft_costs, strict=True)
            soft = tuple(plan.reserved(target) + cost for target, cost in pairs)
            bought = tuple(site.bought for site in found.sites)
            known = (moment.number, counts, bought)
        else:
            counts, changed = entry_counts(state, state.hard()), (0,)
            sums = self._sums(flats, vectors)
            soft, bought = plan.spent(sums.kept), sums.bought
        if phase.frozen:
            writes += self._frozen(bits, vectors, gates)
        mu, beta = vectors["dual"].tolist()
        return Proposal(
            writes=[*writes, self._told(known)],
            counts=counts,
            soft=soft,
            bought=math.fsum(bought),
            changed=sum(changed) / max(sum(site.units for site in plan.sites), 1),
            beta=beta if found is None else phase.beta,
            mu=mu,
            sweeps=found.sweeps if found is not None else 0,
            binding=self.multiplied(vectors["multipliers"][0].tolist()),
        )

    def settle(self) -> StepReport | None:
        """See `Part.settle`."""
        return self.device.settle(self.state.names)

    def reload(self, moment: Moment) -> None:
        """See `Part.reload`."""
        self.device = DeviceStep()
        self.state.still = self.state.hard() if moment.frozen else None

    def reached(self, kept: Mapping[str, float], frozen: bool) -> Mapping[str, float]:
        """See `Part.reached`: of everything, until masks stand still."""
        return kept if frozen else dict.fromkeys(kept, 1.0)

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """See `Part.rows`; totals do not add units: they count weights."""
        found = WeightPart.rows(self, costs)
        return found if self.units is None else (*found, *self.units.rows(costs))

    def _decided(
        self, flats: Sequence[Tensor], vectors: Vectors
    ) -> tuple[list[Write], Sequence[Tensor], tuple[int, ...], tuple[int, ...]]:
        """Hard masks by thresholds: writes, bits, kept entries, and changed ones."""
        entries = entry_bits(self.state)
        rules = (vectors["threshold"].tolist(), vectors["last"].tolist())
        counts, changed = kernels_for(flats).hard_masks(flats, *rules, into=entries)
        sizes = [flat.numel() for flat in flats]
        bits = weight_bits(self.state, entries, sizes)
        pairs = zip(self.state.bits(), bits, strict=True)
        return [partial(old.copy_, new) for old, new in pairs], bits, counts, changed

    @torch.no_grad()
    def stand(self) -> Sequence[Write]:
        """See `Part.stand`."""
        return self._frozen(self.state.bits(), self.state.vectors(), None)

    def _frozen(
        self, bits: Sequence[Tensor], vectors: Vectors, gates: Sequence[Tensor] | None
    ) -> list[Write]:
        """Writes that let masks stand; soft ones go into the weights, or last."""
        state, weights = self.state, self.state.weights()
        pairs = list(zip(bits, weights, strict=True))
        still = [unpack(kept, weight.shape) for kept, weight in pairs]
        ends = partial(setattr, state, "still", still)
        if state.lasting is None:
            rows = enumerate(pairs)
            found = [state.softly(w, i, kept, vectors) for i, (kept, w) in rows]
        else:
            rule = MaskScalars(*(vectors[name] for name in MaskScalars._fields))
            cuts = state.groups()
            found = [factors(w, cuts[i], rule.at(i)) for i, w in enumerate(weights)]
        if state.units is not None:
            found = [state.units.opened(w, i, gates) for i, w in enumerate(found)]
        if state.lasting is None:
            return [*self.standing(dict(vectors), found), ends]
        sums = self._sums(state.values(gates), vectors)
        return [
            *state.lasting.writes(found, (sums.kept, sums.bought)),
            *state.writes(standing(state, dict(vectors))),
            ends,
        ]

    def _lasts(self, lasting: LastingMasks) -> Proposal:
        """A step of masks that stand still, soft ones too: nothing is written."""
        kept, bought = lasting.sums.tolist()
        rest = self.plan.spent(kept), math.fsum(bought)
        return replace(self.hold(), writes=[], soft=rest[0], bought=rest[1])

    def _sums(self, flats: Sequence[Tensor], vectors: Vectors) -> SoftSums:
        """What the soft masks of these parameters come to."""
        keys = ("slope", "center", "mu", "threshold", "last")
        return kernels_for(flats).soft_sums(flats, *(vectors[k].tolist() for k in keys))

    def _moved(
        self, moment: Moment, *, update: bool
    ) -> tuple[Sequence[Tensor] | None, list[Write]]:
        """Gates of the units after a step, None if as they are."""
        if self.units is None or not update:
            return None, []
        return self.units.moved(moment)

    def _solved(
        self, phase: Phase, flats: Sequence[Tensor]
    ) -> tuple[Solution, list[Write]]:
        """The masks of a phase, and what is to be remembered of finding them."""
        plan, state = self.plan, self.state
        weights = state.present()
        allowed = plan.allowed(phase.budget_progress)
        dual, beta = state.dual.tolist()
        found = solve(
            Request(
                values=flats,
                limits=plan.limits(allowed),
                worths=lambda prices, sums: plan.worths(weights, sums, prices),
                bounds=self.bounds(plan.bounds(allowed, weights), flats),
                beta=phase.beta,
                names=state.names,
                sharpness=plan.sharpness(phase),
                inclusive=plan.policy.inclusive,
            ),
            Warm(
                self.expected,
                dual,
                beta,
                (state.center - state.mu / state.slope).tolist(),
                state.multipliers.tolist(),
            ),
        )
        return found, [
            partial(setattr, self, "expected", ahead(found.cuts, self.cuts)),
            partial(setattr, self, "cuts", found.cuts),
        ]

    def _told(
        self, known: tuple[int, Sequence[float], Sequence[float]] | None = None
    ) -> Write:
        """The device path is told of a step that the host has taken."""
        return partial(setattr, self, "device", DeviceStep.after(known))
