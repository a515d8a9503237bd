"""What a learner is: what it needs, what it decides from, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsefx.errors import MaskError, PolicyError
from sparsefx.solver.projection import BUDGET_SLACK

_SLACK = 1e-9  # sums are rounded in another order


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
        further: more budgets, each with its prices and the cost allowed; only learners
            of units see them, those of weights get limits that meet all.
        masks: which entries are kept now, flat bools; None at the start.
        scores: absolute gradients, flat; None where none was seen.
        starts: entries of random masks at the start.
        drop_fraction: share of the kept entries that move now, in [0, 1].
        regrow_dropped: entries that an update drops may grow again in it.
        growth_random: share of what grows by scores that is drawn instead.
        beta: inverse temperature of soft gates.
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
    regrow_dropped: bool = False
    growth_random: float = 0.0
    beta: float = 1.0
    hold: bool = False
    further: Sequence[tuple[Sequence[float], float]] = ()
    wider: tuple[float, Sequence[tuple[int, int]]] | None = None
    seed: int = 0

    def cost(self, counts: Sequence[int]) -> float:
        """What these counts cost, rounded once."""
        return cost_of(self.prices, counts)

    @property
    def budgets(self) -> list[tuple[Sequence[float], float]]:
        """Every budget: its prices, and the cost allowed."""
        return [(self.prices, self.budget), *self.further]

    def fits(self, counts: Sequence[int]) -> bool:
        """Whether every budget pays for these counts."""
        return all(
            cost_of(prices, counts) <= budget * (1 + BUDGET_SLACK)
            for prices, budget in self.budgets
        )


def cost_of(prices: Sequence[float], counts: Sequence[int]) -> float:
    """What these counts cost, rounded once."""
    pairs = zip(prices, counts, strict=True)
    return math.fsum(price * count for price, count in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The masks of an update.

    Attributes:
        masks: which entries are kept, flat bools, one a site.
        reach: which entries receive gradients, where that is more than the masks.
        fresh: kept entries that start anew at zero though they were kept before: pruned
            and grown in the same update.
        gates: what units are multiplied by, where that is not the masks.
    """

    masks: Sequence[Tensor]
    reach: Sequence[Tensor] | None = None
    fresh: Sequence[Tensor] | None = None
    gates: Sequence[Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A way in which masks move.

    Attributes:
        name: what policies, reports and messages call it.
        decide: the masks of an update, a pure function; ``masks`` is None when it is
            first asked. None leaves all to the soft top-k of the weights, anew at every
            forward pass.
        part: what moves: ``"weights"``, ``"units"`` (heads, neurons, channels; a group
            is to `Situation` what a weight is), or ``"tokens"``, and neither of these.
        drawn: the first masks are random, of ``starts`` entries.
        steady: the budget is the target from the start; a ramp is refused.
        zeroes: dropped weights become zero; with ``"dropped"`` among ``reads`` only if
            that setting says so. Otherwise they keep their values.
        scores: absolute gradients of all entries are wanted at the steps where entries
            move; of units, first-order scores.
        dense_gradients: dropped entries receive gradients at every step.
        reads: the fields of `sparsefx.Policy` it heeds among those that not every
            learner does; where they are set for another one, a warning says so. With
            ``"optimizer_state"`` that state becomes zero where masks move.

    Raises:
        PolicyError: ``part`` is not known, or does not go with ``decide``.

    Example:
        >>> from sparsefx.learners import LEARNERS
        >>> rigl = LEARNERS["rigl"]
        >>> rigl.steady, rigl.scores, "drop_fraction" in rigl.reads
        (True, True, True)
    """

    name: str
    decide: Callable[[Situation], Decision] | None = None
    part: Literal["weights", "units", "tokens"] = "weights"
    drawn: bool = False
    steady: bool = False
    zeroes: bool = True
    scores: bool = False
    dense_gradients: bool = False
    reads: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.part not in ("weights", "units", "tokens"):
            raise PolicyError(
                f"the learner {self.name!r} moves {self.part!r}; allowed: weights, "
                "units, tokens"
            )
        if self.part == "units" and self.decide is None:
            raise PolicyError(
                f"the learner {self.name!r} of units has no decide; give a function "
                "from a Situation to a Decision"
            )
        if self.part == "tokens" and self.decide is not None:
            raise PolicyError(
                f"the learner {self.name!r} of tokens has a decide, which nothing "
                "asks; leave it out"
            )

    @property
    def stored(self) -> bool:
        """Whether masks of weights are stored, because no rule gives them back."""
        return self.part == "weights" and self.decide is not None

    def answer(self, situation: Situation) -> Decision:
        """What `decide` says, which must be masks within the budget.

        Raises:
            MaskError: it says something else, or what costs more.
        """
        assert self.decide is not None, "asked only where there is something to decide"
        found = self.decide(situation)
        if not isinstance(found, Decision):
            raise MaskError(
                f"the learner {self.name} answers {type(found).__name__}; return a "
                "sparsefx.learners.Decision"
            )
        sizes = [value.numel() for value in situation.values]
        for kind in ("masks", "reach", "fresh"):
            given = getattr(found, kind)
            if given is not None and list(map(_entries, given)) != sizes:
                raise MaskError(
                    f"the learner {self.name} answers {kind} that are not one flat "
                    f"bool tensor a weight, of {sizes[:8]} entries"
                )
        counts = [int(mask.count_nonzero()) for mask in found.masks]
        for prices, budget in situation.budgets:
            spent = cost_of(prices, counts)
            if spent > budget * (1 + _SLACK):
                raise MaskError(
                    f"the learner {self.name} keeps what costs {spent:.6g}, but the "
                    f"budget allows {budget:.6g}; keep less, such as what "
                    "sparsefx.learners.choose_entries.affordable gives"
                )
        return found


def _entries(mask: object) -> int:
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 1:
        return len(mask)
    return -1
