"""What is sparse in a model is a list of parts; this is what a part must answer.

A step computes first and commits last: each part proposes, which changes nothing and
may fail, and when all have proposed, what they want written is written, which cannot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsefx.masking.site import Site
from sparsefx.reports.report_rows import LayerReport
from sparsefx.settings.schedule import Phase
from sparsefx.training.step_report import StepReport

# Sets an attribute or calls an operator of torch in place, with values that are there
# already: nothing of it can fail half way.
Write = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a step happens.

    Attributes:
        taken: optimizer steps before it.
        number: optimizer steps after it.
        phase: what the schedule says of it.
        following: and of the next one.
        frozen: masks no longer moved before it.
        optimizer: whose state some learners set to zero where masks move.
        spent: MACs of all steps until its end, in dense steps; None if not known.
    """

    taken: int
    number: int
    phase: Phase
    following: Phase
    frozen: bool = False
    optimizer: torch.optim.Optimizer | None = None
    spent: float | None = None

    @property
    def training_cost(self) -> float | None:
        """MACs of all steps until its end, by those of as many dense ones."""
        return self.spent / self.number if self.spent and self.number else None

    @property
    def ends_frozen(self) -> bool:
        """Whether masks no longer move after it."""
        return self.frozen or self.phase.frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a part does at a step, not done yet.

    Attributes:
        writes: what makes it so.
        counts: kept entries of each site.
        soft: what the soft masks cost, in each budget.
        bought: the sum of the soft masks of kept entries.
        changed: share of mask entries that move.
        beta: inverse temperature.
        mu: the shared multiplier.
        sweeps: passes over the weights.
        binding: by budget, its multiplier is above 0; None where only one holds.
        explored: share of the weights that were kept at some step, if known.
        later: the report, where a device has been told to take the step and what it
            will have done is not known yet.
    """

    writes: Sequence[Write] = ()
    counts: Sequence[int] = ()
    soft: Sequence[float] = ()
    bought: float = 0.0
    changed: float = 0.0
    beta: float = 0.0
    mu: float = 0.0
    sweeps: int = 0
    binding: Sequence[bool] | None = None
    explored: float | None = None
    later: StepReport | None = None


class Part(ABC):
    """Weights, units or tokens of a model that lives sparse.

    What is answered here is right for a part without masks.

    Attributes:
        name: under which the model's state holds `state`.
        state: what the part keeps in tensors, if anything.
    """

    __slots__ = ()
    name: str
    state: nn.Module | None

    @abstractmethod
    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """The first masks: those of the learner, or the largest if not `drawn`."""

    @abstractmethod
    def propose(self, moment: Moment) -> Proposal:
        """What a step does; nothing has changed yet."""

    def stand(self) -> Sequence[Write]:
        """Masks stand still from now on, as they are."""
        return ()

    def settle(self) -> StepReport | None:
        """The report of the last step, once, if a device has taken it meanwhile."""
        return None

    def reload(self, moment: Moment) -> None:  # noqa: B027
        """The state has been read from a checkpoint."""

    def shared(self) -> bool:
        """Whether other ranks hold parts of its weights."""
        return False

    def latent(self) -> list[Tensor]:
        """The weights under masks or gates."""
        return []

    def masked(self) -> list[tuple[Tensor, Tensor]]:
        """The parameters under masks, and what layers see of them."""
        return []

    def let_follow(self, follow: Callable[[], None] | None) -> None:  # noqa: B027
        """What is to be called before masks are read."""

    def masks(self) -> dict[str, Tensor]:
        """Hard masks by name."""
        return {}

    def counts(self) -> tuple[int, ...]:
        """Kept entries of each site."""
        return ()

    def reached(self, kept: Mapping[str, float], frozen: bool) -> Mapping[str, float]:
        """By site, the share of entries whose gradients the last backward pass made.

        Args:
            kept: by site, the share of kept entries.
            frozen: masks no longer move.
        """
        return kept

    def explored(self) -> float | None:
        """Share of the weights that were kept at some step, if that is remembered."""
        return None

    def sites(self) -> tuple[Site, ...]:
        """What can be masked."""
        return ()

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """Rows of the report, with these costs."""
        return ()

    def bake(self) -> None:  # noqa: B027
        """Puts the masks into the weights, for good."""
