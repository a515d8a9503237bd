"""The part of weights whose masks are kept as tensors: gather, decide, apply."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.learners import learner_of
from sparsefx.learners.choose_entries import one_each
from sparsefx.learners.learner import Decision, Learner, Situation
from sparsefx.learners.magnitude import decide as by_magnitude
from sparsefx.masking.kept_masks import KeptMasks
from sparsefx.masking.masked_groups import entries
from sparsefx.masking.read_masks import entry_counts, entry_masks, weight_masks
from sparsefx.settings.schedule import Phase
from sparsefx.training.compact_execution import check_optimizer, faster_ones
from sparsefx.training.optimizer_state import forgetting
from sparsefx.training.part import Moment, Proposal, Write
from sparsefx.training.stored_rules import moves_state, wide, zeroes
from sparsefx.training.weight_part import WeightPart


@dataclass(slots=True, eq=False)
class StoredWeights(WeightPart):
    """Weights whose masks a learner of that stores them moves.

    Attributes:
        told: a missing optimizer has been warned of.
        first: what weights are worth when the first masks are chosen, in their shapes;
            None leaves that to the learner.
    """

    told: bool = False
    first: Sequence[Tensor] | None = None

    @torch.no_grad()
    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """See `Part.begin`; dropped weights become zero at the first step only."""
        phase = replace(moment.phase, drop_fraction=0.0)
        state = self.state
        situation = self._situation(moment, phase, state.present(), None, [])
        if drawn and self.first is not None:
            pairs = zip(state.groups(), self.first, strict=True)
            values = [entries(cut, value) for cut, value in pairs]
            sizes = [float(site.unit_size) for site in self.plan.sites]
            values = state.among(values)
            found = by_magnitude(replace(situation, values=values, worths=sizes))
        else:  # where zeros stay, the largest of what is there
            own = drawn and state.candidates is None
            found = (self._learner.answer if own else by_magnitude)(situation)
        masks = weight_masks(state, found.masks)
        return [
            *self._masks(found, everything=True),
            *self._kept.explored.after(masks, anew=True)[0],
            partial(state.mu.fill_, torch.inf),
            partial(state.dual.fill_, torch.inf),
            *self._expects(moment, frozen=False),
        ]

    @torch.no_grad()
    def propose(self, moment: Moment) -> Proposal:
        """See `Part.propose`: dropped weights stay zero, masks move."""
        if moment.frozen:
            still = self.hold()
            return replace(
                still,
                writes=[*still.writes, *self._expects(moment, frozen=True)],
                explored=self.explored(),
            )
        plan, state = self.plan, self.state
        check_optimizer(state, moment.optimizer)
        explored = self.explored()
        momentum = 0.0 if moment.phase.frozen else plan.policy.growth_momentum
        left = self._kept.decayed(momentum)
        before = after = self._kept.masks(len(state.names))
        zeroing = zeroes(plan.policy)
        held = before if zeroing else [torch.ones_like(mask) for mask in before]
        last: list[Write] = []  # after what is written into whole weights
        writes: list[Write] = [
            partial(setattr, self, "told", self._warned(moment)),
            partial(setattr, self._kept, "scores", left),
        ]
        if moment.phase.update:
            found = self._decided(moment, _only(state.present(), held), before)
            after = weight_masks(state, found.masks)
            none = [torch.zeros_like(mask) for mask in found.masks]
            rest = weight_masks(state, none)  # what groups keep whatever is decided
            fresh = weight_masks(state, found.fresh or none)
            fresh = [new & ~kept for new, kept in zip(fresh, rest, strict=True)]
            moved = [old ^ new for old, new in zip(before, after, strict=True)]
            if zeroing:
                rows = zip(held, after, fresh, strict=True)
                held = [old & new & ~first for old, new, first in rows]
            writes += self._masks(found)
            if state.compact is not None:
                more = faster_ones(state, plan.sites, after)
                last += state.compact.moved(after, fresh, moment.optimizer, more)
            remembered, explored = self._kept.explored.after(after)
            writes += remembered
            if moment.optimizer is not None and moves_state(plan.policy):
                pairs = zip(moved, fresh, strict=True)
                started = [change | first for change, first in pairs]
                writes += forgetting(moment.optimizer, state.raw(), started)
        if zeroing:
            writes += self.cleared(held)
        counts = entry_counts(state, after)
        moves = 0
        if after is not before:
            pairs = zip(before, after, strict=True)
            moves = sum(int((old ^ new).count_nonzero()) for old, new in pairs)
        if moment.phase.frozen:
            held = [old & new for old, new in zip(held, after, strict=True)]
            writes += self.standing(state.vectors(), _only(state.weights(), held))
        mu, beta = state.dual.tolist()
        return Proposal(
            writes=[
                *writes,
                *last,
                *self._expects(moment, frozen=moment.phase.frozen),
            ],
            counts=counts,
            soft=plan.spent(counts),
            bought=float(sum(counts)),
            changed=moves / max(sum(site.units for site in plan.sites), 1),
            beta=beta,
            mu=mu,
            binding=self.multiplied(state.multipliers[0].tolist()),
            explored=explored,
        )

    @torch.no_grad()
    def stand(self) -> Sequence[Write]:
        """See `Part.stand`."""
        state = self.state
        wanted = partial(setattr, self._kept, "wanted", False)
        baked = _only(state.weights(), state.hard())
        return [*self.standing(state.vectors(), baked), wanted]

    def reload(self, moment: Moment) -> None:
        """See `Part.reload`."""
        if self.state.compact is not None:
            self.state.compact.narrow()
        for write in self._expects(moment, frozen=moment.frozen):
            write()

    def reached(self, kept: Mapping[str, float], frozen: bool) -> Mapping[str, float]:
        """See `Part.reached`."""
        masks = self._kept
        grows = self._learner.dense_gradients and not masks.wide and not frozen
        if masks.wanted or grows:
            return dict.fromkeys(kept, 1.0)
        if not masks.wide:
            return kept
        found = [masks.reach(index) for index in range(len(kept))]
        return {
            name: float(reach.double().mean())
            for name, reach in zip(self.state.names, found, strict=True)
            if reach is not None
        }

    def explored(self) -> float:
        """See `Part.explored`."""
        return self._kept.explored.share()

    @property
    def _kept(self) -> KeptMasks:
        assert self.state.kept is not None, "learners that keep masks come here"
        return self.state.kept

    @property
    def _learner(self) -> Learner:
        return learner_of(self.plan.policy.learner)

    def _warned(self, moment: Moment) -> bool:
        """Warns of a missing optimizer, once; whether that has been done."""
        policy = self.plan.policy
        if moment.optimizer is not None or not moves_state(policy) or self.told:
            return self.told
        warnings.warn(
            f"the learner {self._learner.name} sets the optimizer's state to zero "
            "where masks move; write sparsefx.step(model, optimizer=optimizer), or set "
            "optimizer_state: keep",
            UserWarning,
            stacklevel=5,
        )
        return True

    def _expects(self, moment: Moment, *, frozen: bool) -> list[Write]:
        """Says whether the next backward pass must deliver dense gradients."""
        learner, following = self._learner, moment.following
        moves = following.drop_fraction > 0 or "drop_fraction" not in learner.reads
        moves &= following.update
        moves |= self.plan.policy.growth_momentum > 0
        wanted = learner.scores and moves and not frozen
        dense = learner.dense_gradients and not self._kept.wide
        through = float(wanted or (dense and not frozen))
        return [
            partial(setattr, self._kept, "wanted", wanted),
            partial(self.state.through.fill_, through),
        ]

    def _masks(self, found: Decision, *, everything: bool = False) -> list[Write]:
        """Takes over a learner's masks; `everything` also what it does not tell."""
        kept, kinds = self._kept, {"mask": found.masks}
        if kept.wide and (found.reach is not None or everything):
            kinds["reach"] = found.masks if found.reach is None else found.reach
        return [
            partial(getattr(kept, f"{kind}_{index}").copy_, whole)
            for kind, masks in kinds.items()
            for index, whole in enumerate(weight_masks(self.state, masks))
        ]

    def _decided(
        self, moment: Moment, weights: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> Decision:
        """The learner's answer, by weights whose dropped entries are zero."""
        cuts, known = self.state.groups(), self._kept.ranked(len(weights))
        scores: list[Tensor | None] = [
            score if score is None or cut is None else cut.values(score.view_as(weight))
            for score, cut, weight in zip(known, cuts, weights, strict=True)
        ]
        flat = [mask.clone() for mask in entry_masks(self.state, masks)]
        seen = self.state.among(scores)
        found = self._situation(moment, moment.phase, weights, flat, seen)
        return self._learner.answer(found)

    def _situation(
        self,
        moment: Moment,
        phase: Phase,
        weights: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        scores: Sequence[Tensor | None],
    ) -> Situation:
        plan, policy, learner = self.plan, self.plan.policy, self._learner
        cuts = zip(self.state.groups(), weights, strict=True)
        flats = self.state.among([entries(cut, weight) for cut, weight in cuts])
        prices, sizes = plan.prices(), [flat.numel() for flat in flats]
        allowed = plan.allowed(phase.budget_progress)
        budget, reserved = allowed[0], plan.reserved(plan.targets[0])

        def limits(allowed: Sequence[float]) -> list[tuple[int, int]]:
            if plan.several:
                return self.bounds(plan.settled(allowed, weights), flats)
            found = self.bounds(plan.bounds(allowed, weights), flats)
            return one_each(found, prices, sizes, allowed[0] - reserved)

        _check(self.state.names, flats)
        random = masks is None and learner.drawn
        starts = plan.starts(allowed, weights) if random else []
        if starts:
            fixed = [(n, n) for n in starts]
            given = one_each(fixed, prices, sizes, budget - reserved)
            starts = [count for count, _ in given]
        share = policy.backward_density
        pairs = zip(plan.targets, allowed, strict=True)
        others = tuple(max(share * plan.total(t), amount) for t, amount in pairs)
        wider = (others[0] - reserved, limits(others)) if wide(policy) else None
        return Situation(
            names=self.state.names,
            values=flats,
            prices=prices,
            worths=plan.worths(weights),
            limits=limits(allowed),
            budget=budget - reserved,
            masks=masks,
            scores=scores,
            starts=starts,
            drop_fraction=phase.drop_fraction,
            regrow_dropped=policy.regrow_dropped,
            growth_random=policy.growth_random,
            beta=phase.beta,
            hold=policy.dropped == "hold",
            wider=wider,
            seed=policy.seed * 1_000_003 + moment.taken,
        )


def _only(weights: Sequence[Tensor], held: Sequence[Tensor]) -> list[Tensor]:
    """Copies in which all but these entries are zero."""
    return [w.masked_fill(~mask, 0.0) for w, mask in zip(weights, held, strict=True)]


def _check(names: Sequence[str], flats: Sequence[Tensor]) -> None:
    for name, flat in zip(names, flats, strict=True):
        if not bool(flat.isfinite().all()):
            raise MaskError(
                f"weight {name!r} has NaN or infinite entries; masks rank magnitudes "
                "and need finite ones: restore a checkpoint, or lower the learning rate"
            )
