"""When things happen: budget, inverse temperature, updates and the freeze, by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sparsefx.errors import PolicyError

RampShape = Literal["constant", "linear", "cosine", "cubic"]
RAMP_SHAPES: tuple[str, ...] = get_args(RampShape)


def resolve(position: int | float, total_steps: int) -> int:
    """The step a position means.

    Args:
        position: a step (int), or a fraction of ``total_steps`` (float in [0, 1]).
        total_steps: optimizer steps the schedule spans.

    Returns:
        ``position`` itself if it is an int, else ``floor(position * total_steps)``.

    Example:
        >>> resolve(0.2, 1000), resolve(1.0, 1000), resolve(1, 1000)
        (200, 1000, 1)
    """
    if isinstance(position, int):
        return position
    # 0.29 * 100 is 28.999999999999996 in floating point; the user means 29.
    return math.floor(position * total_steps + 1e-9)


@dataclass(frozen=True, slots=True)
class Ramp:
    """A number that moves from ``initial`` to ``final`` between two steps.

    With ``r = (step - begin) / (end - begin)`` clipped to [0, 1] the value is
    ``initial + (final - initial) * g(r)``, where ``g(r)`` is ``r`` (linear),
    ``(1 - cos(pi r)) / 2`` (cosine) or ``1 - (1 - r)^3`` (cubic). A constant ramp
    is ``final`` at every step.

    Attributes:
        shape: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"cubic"``.
        initial: the value up to and at step ``begin``.
        final: the value at and after step ``end``, exactly.
        begin: first step of the ramp.
        end: last step of the ramp; at least ``begin``.
    """

    shape: RampShape
    initial: float
    final: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        if self.shape not in RAMP_SHAPES:
            raise PolicyError(
                f"ramp {self.shape!r} is not known; allowed: {', '.join(RAMP_SHAPES)}"
            )
        if self.begin > self.end:
            raise PolicyError(
                f"a ramp cannot begin at step {self.begin} and end at step "
                f"{self.end}; lower begin_step or raise end_step"
            )

    def at(self, step: int) -> float:
        """The value at a step.

        Args:
            step: optimizer steps taken so far, at least 0.

        Example:
            >>> ramp = Ramp("linear", 1.0, 0.1, 0, 200)
            >>> ramp.at(50), ramp.at(200), ramp.at(1000)
            (0.775, 0.1, 0.1)
        """
        ratio = self.progress(step)
        if ratio == 1:
            return self.final
        return self.initial + (self.final - self.initial) * ratio

    def progress(self, step: int) -> float:
        """The share of the way that is done at a step, ``g(r)``.

        Example:
            >>> Ramp("cubic", 1.0, 0.1, 0, 200).progress(100)
            0.875
        """
        if self.shape == "constant" or step >= self.end:
            return 1.0
        if step <= self.begin:
            return 0.0
        ratio = (step - self.begin) / (self.end - self.begin)
        if self.shape == "cosine":
            return (1 - math.cos(math.pi * ratio)) / 2
        return 1 - (1 - ratio) ** 3 if self.shape == "cubic" else ratio


@dataclass(frozen=True, slots=True)
class Phase:
    """What a schedule says about one step.

    Attributes:
        budget_progress: share of the way from the initial budget to the target,
            in [0, 1], at the last update.
        beta: inverse temperature of the soft masks.
        frozen: masks no longer move after this step.
        update: masks are computed anew at this step. At the freeze step itself
            both hold: one last update, then the freeze.
        drop_fraction: share of the kept entries that move at this step, in [0, 1].
        beta_progress: share of the way from the initial beta to the final one.
    """

    budget_progress: float
    beta: float
    frozen: bool
    update: bool
    drop_fraction: float = 0.0
    beta_progress: float = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Budget, beta, updates and freeze over the steps of a training run.

    Attributes:
        progress: the budget's ramp, from 0 (initial budget) to 1 (target).
        beta: the inverse temperature's ramp.
        freeze: step from which masks are frozen; None never freezes.
        update_every: masks are computed anew every this many steps, and also at the
            steps where a ramp ends or the freeze comes, so that the target is met
            there.
        drop: the share of kept entries that move at an update, or None. Nothing moves
            at the ends of ramps, before the budget's ramp begins, or at ``last``.
        last: step after which nothing could be trained any more; None for no end.
    """

    progress: Ramp
    beta: Ramp
    freeze: int | None = None
    update_every: int = 1
    drop: Ramp | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise PolicyError(
                f"update_every is {self.update_every}; it must be at least 1"
            )
        ramps = self.progress.shape != "constant"
        if self.freeze is not None and ramps and self.freeze < self.progress.end:
            raise PolicyError(
                f"freeze_step (step {self.freeze}) comes before end_step (step "
                f"{self.progress.end}): masks would freeze before the budget is "
                "reached; raise freeze_step or lower end_step"
            )

    @classmethod
    def constant(
        cls, beta: float, update_every: int = 1, drop_fraction: float = 0.0
    ) -> Schedule:
        """The schedule without steps: at the target from the start, never frozen.

        Args:
            beta: inverse temperature, above 0.
            update_every: steps between two updates, at least 1.
            drop_fraction: share of kept entries that move at an update.

        Example:
            >>> Schedule.constant(10.0).at(0).budget_progress
            1.0
        """
        return cls(
            Ramp("constant", 0.0, 1.0, 0, 0),
            Ramp("constant", beta, beta, 0, 0),
            update_every=update_every,
            drop=Ramp("constant", drop_fraction, drop_fraction, 0, 0),
        )

    def at(self, step: int) -> Phase:
        """What holds at a step.

        Args:
            step: optimizer steps taken so far, at least 0.

        Example:
            >>> schedule = Schedule(
            ...     Ramp("linear", 0.0, 1.0, 0, 200),
            ...     Ramp("linear", 1.0, 20.0, 0, 800),
            ...     freeze=800,
            ... )
            >>> schedule.at(50)
            Phase(budget_progress=0.25, beta=2.1875, frozen=False, update=True, \
drop_fraction=0.0, beta_progress=0.0625)
            >>> schedule.at(801).frozen, schedule.at(801).update
            (True, False)
        """
        due = step % self.update_every == 0
        open_ = self.freeze is None or step <= self.freeze
        moves = due and open_ and step >= max(self.progress.begin, 1)
        moves = moves and (self.last is None or step < self.last)
        ends = (self.progress.end, self.beta.end, self.freeze)
        milestone = step in ends
        # between updates the budget of the last one is in force
        passed = [end for end in ends if end is not None and end <= step]
        latest = max(step - step % self.update_every, *passed, 0)
        return Phase(
            budget_progress=self.progress.at(latest),
            beta=self.beta.at(step),
            frozen=self.freeze is not None and step >= self.freeze,
            update=(due or milestone) and open_,
            drop_fraction=self.drop.at(step) if self.drop and moves else 0.0,
            beta_progress=self.beta.progress(step),
        )
