"""What stands in graphs for masks, and what may stand around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Masks(Protocol):
    """What the properties of masked modules and the nodes of graphs ask."""

    def masked(self, weight: Tensor, index: int) -> Tensor:
        """The weight that layers see."""

    def takes(self, index: int, parameter: Tensor, *, gathered: bool) -> bool:
        """Whether a parameter takes a weight's place because ranks share it.

        ``gathered`` where the whole weight comes back while layers run (FSDP2).
        """


class Around(Protocol):
    """Gates of units around the weights (`sparsefx.training.units_around`), or zeros
    that stay (`sparsefx.masking.candidates`).
    """

    def opened(
        self, weight: Tensor, index: int, gates: Sequence[Tensor] | None = None
    ) -> Tensor:
        """A site's weight, or its like, with zeros for what is shut out."""


class MaskedWeight(nn.Module):
    """What graphs call to mask one weight.

    Args:
        state: what masks it.
        index: which weight it is.
        says: what ``print`` shows, its name and granularity.
    """

    def __init__(self, state: Masks, index: int, says: str) -> None:  # noqa: D107
        super().__init__()
        self.index, self.says = index, says
        self.__dict__["state"] = state  # not a child: it is the parent

    def extra_repr(self) -> str:
        """Which weight it masks, and how."""
        return self.says

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that a layer sees."""
        state: Masks = self.__dict__["state"]
        return state.masked(weight, self.index)
