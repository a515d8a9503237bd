"""Which weights may be kept, where zeros that a model came with are to stay.

Solver and learners see the entries of the other weights alone, so that none of them
need know; layers see zeros for the rest, whatever somebody writes there, and no
gradient comes back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sparsefx.masking.held import Held
from sparsefx.masking.weight_groups import Grouping

Values = TypeVar("Values", Tensor, Tensor | None)  # None: not known


class Candidates(Held):
    """The weights that were not zero; a group is one if any of its weights is.

    Args:
        weights: of all sites.

    Example:
        >>> found = Candidates([torch.tensor([[0.0, 2.0, 3.0]])])
        >>> found.among([torch.tensor([5.0, 6.0, 7.0])], [None])
        [tensor([6., 7.])]
        >>> found.whole([torch.tensor([False, True])], [None])
        [tensor([False, False,  True])]
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:  # noqa: D107
        super().__init__()
        self.count = len(weights)
        for index, weight in enumerate(weights):
            self.hold(f"candidates_{index}", weight.detach() != 0)

    def mask(self, index: int) -> Tensor:
        """The candidates of a site, bool, like its weight."""
        found: Tensor = getattr(self, f"candidates_{index}")
        return found

    def opened(
        self, weight: Tensor, index: int, gates: Sequence[Tensor] | None = None
    ) -> Tensor:
        """See `mask_node.Around`: zeros for what is no candidate."""
        return torch.where(self.mask(index), weight, 0.0)

    def among(
        self, entries: Sequence[Values], groups: Sequence[Grouping | None]
    ) -> list[Values]:
        """Of one value an entry, flat, those of candidates; one tensor a site."""
        pairs = zip(entries, self._entries(groups), strict=True)
        return [
            values if values is None else values[chosen] for values, chosen in pairs
        ]

    def whole(
        self, chosen: Sequence[Tensor], groups: Sequence[Grouping | None]
    ) -> list[Tensor]:
        """Masks of candidates as masks of all entries."""
        pairs = zip(self._entries(groups), chosen, strict=True)
        return [
            torch.zeros_like(places).masked_scatter_(places, mask)
            for places, mask in pairs
        ]

    def _entries(self, groups: Sequence[Grouping | None]) -> list[Tensor]:
        masks = [self.mask(index) for index in range(self.count)]
        return [
            mask.reshape(-1) if cut is None else cut.values(mask.float()) > 0
            for mask, cut in zip(masks, groups, strict=True)
        ]
