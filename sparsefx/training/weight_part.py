"""What all learners of weights share: reports, finalizing, masks that stand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsefx.masking.mask_vectors import standing
from sparsefx.masking.read_masks import entry_counts
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import SparseState
from sparsefx.reports.report_rows import LayerReport
from sparsefx.training.layer_rows import layer_rows
from sparsefx.training.part import Part, Proposal, Write
from sparsefx.training.plan import Plan


@dataclass(slots=True, eq=False)
class WeightPart(Part):
    """The masked weights of a model.

    Attributes:
        plan: what was asked for.
        state: masks and mask parameters.
        name: of the state.
    """

    plan: Plan
    state: SparseState
    name: str = "weights"

    @torch.no_grad()
    def hold(self) -> Proposal:
        """A step of masks that stand still: dropped weights become zero again."""
        masks = self.state.still or self.state.hard()
        counts = entry_counts(self.state, masks)
        mu, beta = self.state.dual.tolist()
        return Proposal(
            writes=self.cleared(masks),
            counts=counts,
            soft=self.plan.spent(counts),
            bought=float(sum(counts)),
            beta=beta,
            mu=mu,
            binding=self.multiplied(self.state.multipliers[0].tolist()),
        )

    def cleared(self, masks: Sequence[Tensor]) -> list[Write]:
        """Writes that make dropped weights zero, where they are stored."""
        return [
            functools.partial(weight.masked_fill_, ~mask, 0.0)
            for mask, weight in zip(masks, self.state.raw(), strict=True)
            if weight.shape == mask.shape
        ]

    def bounds(
        self, found: Sequence[tuple[int, int]], values: Sequence[Tensor]
    ) -> list[tuple[int, int]]:
        """Bounds of a plan, of the entries that may be kept: one value each."""
        rows = zip(found, [value.numel() for value in values], strict=True)
        return [(min(low, size), min(high, size)) for (low, high), size in rows]

    def multiplied(self, multipliers: Sequence[float]) -> Sequence[bool] | None:
        """Which of several budgets decide."""
        return [m > 0 for m in multipliers] if self.plan.several else None

    def standing(
        self, vectors: dict[str, Tensor], baked: Sequence[Tensor]
    ) -> list[Write]:
        """Writes that bake masks in; kept weights take on their soft mask."""
        pairs = zip(self.state.raw(), baked, strict=True)
        whole = [(w, value) for w, value in pairs if w.shape == value.shape]
        return [
            *(functools.partial(weight.copy_, value) for weight, value in whole),
            *self.state.writes(standing(self.state, vectors)),
        ]

    def shared(self) -> bool:
        """See `Part.shared`."""
        return self.state.shared is not None

    def latent(self) -> list[Tensor]:
        """See `Part.latent`."""
        return self.state.raw()

    def masked(self) -> list[tuple[Tensor, Tensor]]:
        """See `Part.masked`; of weights that ranks share as tensors spread likewise."""
        state, weights = self.state, self.state.weights()
        found = [state.masked_part(weight, i) for i, weight in enumerate(weights)]
        if state.shared is not None:
            found, weights = state.shared.whole(found), state.shared.parameters(weights)
        return list(zip(weights, found, strict=True))

    def let_follow(self, follow: Callable[[], None] | None) -> None:
        """See `Part.let_follow`."""
        self.state.follow = follow

    def masks(self) -> dict[str, Tensor]:
        """See `Part.masks`."""
        names, found = self.state.names, self.state.hard()
        if self.state.shared is not None:
            found = self.state.shared.whole(found)
        return {name: mask.clone() for name, mask in zip(names, found, strict=True)}

    def counts(self) -> tuple[int, ...]:
        """Kept weights of each site."""
        masks = self.state.hard()
        return self.state.summed([int(mask.count_nonzero()) for mask in masks])

    def entries(self) -> tuple[int, ...]:
        """Kept entries (weights, or groups) of each site."""
        return entry_counts(self.state, self.state.hard())

    def sites(self) -> tuple[Site, ...]:
        """See `Part.sites`."""
        return tuple(self.plan.live(self.state.weights()))

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """See `Part.rows`; weights that stay dense follow."""
        plan = self.plan
        masked = [str(site.granularity) for site in plan.sites]
        rows = layer_rows(plan.sites, self.counts(), costs, masked)
        compact = self.state.compact
        alone = frozenset[int]() if compact is None else compact.sites
        return (
            *(
                replace(row, execution="sparse") if index in alone else row
                for index, row in enumerate(rows)
            ),
            *layer_rows(plan.dense, [s.numel for s in plan.dense], costs, "dense"),
        )

    @torch.no_grad()
    def bake(self) -> None:
        """See `Part.bake`."""
        for index, weight in enumerate(self.state.weights()):
            weight.copy_(self.state.masked(weight, index))
            weight.grad = None
