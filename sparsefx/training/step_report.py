"""What a step of the masks reports; on a GPU, numbers that are fetched when read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparsefx.reports.text_table import human, percent
from sparsefx.training.plan import Plan

if TYPE_CHECKING:
    from sparsefx.solver.device_solver import Seen


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step of the masks did; costs are in the unit of the first budget.

    Attributes:
        step: optimizer steps taken.
        budget: cost allowed at this step.
        soft_cost: cost of the soft masks.
        hard_cost: cost of the hard masks, never above ``budget``.
        budgets: by budget name, ``(budget, soft_cost, hard_cost)``.
        beta: inverse temperature.
        mu: the shared multiplier: ``m = sigmoid(beta worth |w| / price + mu)``; of
            several budgets, that of a layer whose price is the mean one.
        sweeps: passes over the weights the solver took.
        changed: share of mask entries that moved.
        kept_mask_mean: mean soft mask of the kept entries, the factor by which
            masking shrinks them.
        densities: kept fraction by parameter name.
        frozen: masks no longer move.
        binding: names of the budgets that decide: those that would have to grow for
            more to be kept.
        training_cost: MACs of all steps so far by those of as many dense ones, see
            `sparsefx.training.training_cost`; None where MACs are not known.
        explored: share of the weights that were kept at some step (the exploration
            rate of Liu et al., "Do We Actually Need Dense Over-Parameterization?",
            2021, arXiv 2102.02887); None for learners that store no masks of weights,
            since soft masks train every weight at every step.

    Example:
        >>> import sparsefx, torch
        >>> net = torch.nn.Linear(8, 4)
        >>> sparse = sparsefx.transform(net, example_inputs=(torch.ones(1, 8),))
        >>> print(sparsefx.step(sparse))
        step 1, 3 of 3.2 macs, 0.0 % moved
    """

    step: int
    budget: float
    soft_cost: float
    hard_cost: float
    budgets: Mapping[str, tuple[float, float, float]]
    beta: float
    mu: float
    sweeps: int
    changed: float
    kept_mask_mean: float
    densities: Mapping[str, float]
    frozen: bool
    binding: tuple[str, ...] = ()
    training_cost: float | None = None
    explored: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, texts and plain numbers."""
        return asdict(self)

    def __str__(self) -> str:
        spent = [
            f"{human(hard)} of {human(allowed)} {cost}"
            for cost, (allowed, _, hard) in self.budgets.items()
        ]
        moved = "frozen" if self.frozen else f"{percent(self.changed)} moved"
        return ", ".join([f"step {self.step}", *spent, moved])


@dataclass(frozen=True, slots=True)
class Asked:
    """What the host knows of a step that a device takes.

    Attributes:
        step: optimizer steps taken.
        budget: cost allowed.
        beta: inverse temperature.
        training_cost: see `StepReport`.
    """

    step: int
    budget: float
    beta: float
    training_cost: float | None


def reported(plan: Plan, asked: Asked, seen: Seen) -> StepReport:
    """The report of a step that a device has taken, for its one budget."""
    cost = plan.targets[0].cost
    (soft,), (hard,) = plan.spent(seen.soft), plan.spent(seen.counts)
    return StepReport(
        step=asked.step,
        budget=asked.budget,
        soft_cost=soft,
        hard_cost=hard,
        budgets={cost: (asked.budget, soft, hard)},
        beta=asked.beta,
        mu=seen.mu,
        sweeps=seen.sweeps,
        changed=sum(seen.moved) / max(sum(s.numel for s in plan.sites), 1),
        kept_mask_mean=math.fsum(seen.bought) / max(sum(seen.counts), 1),
        densities={
            site.name: count / site.numel
            for site, count in zip(plan.sites, seen.counts, strict=True)
        },
        frozen=False,
        binding=(cost,) if seen.counts and hard < plan.total(plan.targets[0]) else (),
        training_cost=asked.training_cost,
    )


class LaterReport(StepReport):
    """A `StepReport` whose numbers are fetched when one of them is first read.

    Reading waits for the device; a report that nobody reads costs nothing.
    """

    __slots__ = ("_fetch",)

    def __init__(self, fetch: Callable[[], StepReport]) -> None:  # noqa: D107
        object.__setattr__(self, "_fetch", fetch)

    def __getattribute__(self, name: str) -> Any:
        if name not in StepReport.__slots__:
            return object.__getattribute__(self, name)
        try:
            return object.__getattribute__(self, name)
        except AttributeError:
            found = object.__getattribute__(self, "_fetch")()
            for field in StepReport.__slots__:
                object.__setattr__(self, field, getattr(found, field))
            return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[type[StepReport], tuple[Any, ...]]:
        """Copies and pickles are plain reports."""
        return StepReport, tuple(getattr(self, n) for n in StepReport.__slots__)
