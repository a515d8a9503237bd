"""What a step of the masks reports; on a GPU, numbers that are fetched when read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def reported(
    plan: Plan, step: int, budget: float, beta: float, seen: Seen
) -> StepReport:
    """The report of a step that a device has taken, for its one budget."""
    cost = plan.targets[0].cost
    (soft,), (hard,) = plan.spent(seen.soft), plan.spent(seen.counts)
    return StepReport(
        step=step,
        budget=budget,
        soft_cost=soft,
        hard_cost=hard,
        budgets={cost: (budget, soft, hard)},
        beta=beta,
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
