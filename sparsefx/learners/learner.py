"""What a learner that keeps its masks decides from, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Situation:
    """Weights, prices and limits at an update; sequences have one entry a site.

    Attributes:
        names: of the weights, for messages.
        values: what entries are worth keeping by, their magnitudes or the weights
            themselves (signs do not matter); flat, float32 or float64.
        prices: cost of one kept entry, >= 0.
        worths: the value of an entry counts ``worth * |value|``; > 0.
        limits: least and greatest number of entries to keep.
        budget: cost allowed, in the unit of the prices.
        masks: which entries are kept now, flat bools; None at the start.
        scores: absolute gradients, flat; None where none was seen.
        starts: entries of random masks at the start.
        drop_fraction: share of the kept entries that move now, in [0, 1].
        growth: what decides where they go.
        hold: dropped entries keep their values and may come back by magnitude.
        wider: a second budget and limits, for what receives gradients beyond what is
            kept; None lets everything receive them.
        seed: of random choices, the same on all ranks.
    """

    names: Sequence[str]
    values: Sequence[Tensor]
    prices: Sequence[float]
    worths: Sequence[float]
    limits: Sequence[tuple[int, int]]
    budget: float
    masks: Sequence[Tensor] | None = None
    scores: Sequence[Tensor | None] = ()
    starts: Sequence[int] = ()
    drop_fraction: float = 0.0
    growth: Literal["none", "random", "gradient"] = "none"
    hold: bool = False
    wider: tuple[float, Sequence[tuple[int, int]]] | None = None
    seed: int = 0

    def cost(self, counts: Sequence[int]) -> float:
        """What these counts cost, rounded once."""
        pairs = zip(self.prices, counts, strict=True)
        return math.fsum(price * count for price, count in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The masks of an update.

    Attributes:
        masks: which entries are kept, flat bools, one a site.
        reach: which entries receive gradients, where that is more than the masks.
        fresh: kept entries that start anew at zero though they were kept before: pruned
            and grown in the same update.
    """

    masks: Sequence[Tensor]
    reach: Sequence[Tensor] | None = None
    fresh: Sequence[Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Learner:
    """A way in which kept masks move.

    Attributes:
        decide: the masks of an update. Dropped and kept entries are what it says; the
            caller makes dropped weights zero and moves optimizer state.
        steady: the budget is the target from the start; a ramp is refused.
        grows: what decides where entries that move go: nothing moves, chance, or the
            gradient, which is then made dense at the steps where entries move.
    """

    decide: Callable[[Situation], Decision]
    steady: bool = False
    grows: Literal["none", "random", "gradient"] = "none"
