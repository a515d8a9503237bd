"""What all learners of weights share: bits of what is kept, reports, finalizing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.kernels.bits import unpack
from sparsefx.masking.read_masks import baked_bits, hard_bits, hard_masks
from sparsefx.masking.read_masks import counts as count
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import SparseState
from sparsefx.reports.report import LayerReport
from sparsefx.training.layer_rows import layer_rows
from sparsefx.training.part import Moment, Proposal, Write
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport


@dataclass(slots=True, eq=False)
class WeightPart:
    """The masked weights of a model.

    Attributes:
        plan: what was asked for.
        state: mask parameters.
        kept: hard masks after the last step (`sparsefx.kernels.bits`), to report what
            changed and to hold frozen weights; found anew from the weights when
            missing.
        frozen: masks are baked into the weights and stand still.
        name: of the state.
    """

    plan: Plan
    state: SparseState
    kept: list[Tensor] | None = None
    frozen: bool = False
    name: str = "weights"

    def bits(self) -> list[Tensor]:
        """The hard masks of all sites after the last step."""
        if self.kept is None:
            state = self.state
            if self.frozen and state.kept is None:
                self.kept = baked_bits(state.weights(), state.threshold)
            else:
                self.kept = hard_bits(state)
        return self.kept

    @torch.no_grad()
    def hold(self) -> Proposal:
        """A step of masks that stand still: dropped weights become zero again."""
        kept, weights = self.bits(), self.state.weights()
        counts = count(self.state, kept)
        mu, beta = self.state.dual.tolist()
        return Proposal(
            writes=[
                functools.partial(weight.masked_fill_, ~unpack(bits, weight.shape), 0.0)
                for bits, weight in zip(kept, weights, strict=True)
            ],
            counts=counts,
            soft=self.plan.spent(counts),
            bought=float(sum(counts)),
            beta=beta,
            mu=mu,
            binding=self.multiplied(self.state.multipliers[0].tolist()),
        )

    def multiplied(self, multipliers: Sequence[float]) -> Sequence[bool] | None:
        """Which of several budgets decide."""
        return [m > 0 for m in multipliers] if self.plan.several else None

    @torch.no_grad()
    def stand(self) -> Sequence[Write]:
        """See `Part.stand`."""
        state = self.state
        baked = [state.masked(w, i) for i, w in enumerate(state.weights())]
        return self.standing(state.standing(state.vectors()), baked)

    def standing(
        self, vectors: dict[str, Tensor], baked: Sequence[Tensor]
    ) -> list[Write]:
        """Writes that bake masks in; kept weights take on their soft mask."""
        pairs = zip(self.state.weights(), baked, strict=True)
        kept = None
        if self.state.kept is None:
            kept = baked_bits(baked, vectors["threshold"])
        return [
            *(functools.partial(weight.copy_, value) for weight, value in pairs),
            *self.state.writes(vectors),
            functools.partial(setattr, self, "kept", kept),
            functools.partial(setattr, self, "frozen", True),
        ]

    def settle(self) -> StepReport | None:
        """See `Part.settle`."""
        return None

    def reload(self, moment: Moment) -> None:
        """See `Part.reload`."""
        self.kept, self.frozen = None, moment.frozen
        self.bits()

    def masks(self) -> dict[str, Tensor]:
        """See `Part.masks`."""
        state = self.state
        if not self.frozen:
            found = hard_masks(state)
        else:
            pairs = zip(self.bits(), state.weights(), strict=True)
            found = [unpack(bits, weight.shape) for bits, weight in pairs]
        return {n: mask.clone() for n, mask in zip(state.names, found, strict=True)}

    def counts(self) -> tuple[int, ...]:
        """Kept weights of each site."""
        return tuple(int(mask.count_nonzero()) for mask in self.masks().values())

    def sites(self) -> tuple[Site, ...]:
        """See `Part.sites`."""
        return tuple(self.plan.live(self.state.weights()))

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """See `Part.rows`; weights that stay dense follow."""
        plan = self.plan
        masked = [str(site.granularity) for site in plan.sites]
        return (
            *layer_rows(plan.sites, self.counts(), costs, masked),
            *layer_rows(plan.dense, [s.numel for s in plan.dense], costs, "dense"),
        )

    @torch.no_grad()
    def bake(self) -> None:
        """See `Part.bake`."""
        for index, weight in enumerate(self.state.weights()):
            weight.copy_(self.state.masked(weight, index))
            weight.grad = None
