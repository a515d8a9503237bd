"""What a copy of a sparse model was copied from: averages follow its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sparsefx.masking.held import Held

if TYPE_CHECKING:
    from sparsefx.training.life import Life


@dataclass(slots=True, eq=False)
class Source:
    """The original of a copy.

    Attributes:
        life: of the original.
        seen: the copy's weights, and their versions when they were copied.
        stamp: the original's when its masks were last taken over.
    """

    life: Life
    seen: Sequence[tuple[Tensor, int]]
    stamp: object

    def written(self) -> bool:
        """Whether somebody has written into the copy's weights."""
        return any(weight._version != version for weight, version in self.seen)


def take_over(mine: nn.Module, theirs: nn.Module) -> None:
    """Writes what one model's state holds into another's of the same build."""
    for own, other in zip(mine.modules(), theirs.modules(), strict=True):
        if isinstance(own, Held) and isinstance(other, Held):
            own.take(other.held())
