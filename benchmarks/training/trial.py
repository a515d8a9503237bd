"""A network and the learner that makes it sparse, ready to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from training.accuracy_tasks import Scale, Task

import sparsefx

TAKES_OPTIMIZER = ("gmp", "set", "rigl", "granet", "granet_sparse")
SELDOM = (*TAKES_OPTIMIZER, "fixed")  # masks move some 30 times a run
REGROW = ("set", "rigl", "granet", "granet_sparse")
MOVES = 0.1  # of the kept weights, at first; the papers' 0.3 and 0.5 for long runs hurt


@dataclass
class Trial:
    """One learner's network.

    Attributes:
        model: what is trained.
        learner: a preset's name, "dense", or "reference" for the authors' Spartan.
        other: the authors' sparsifier.
        peak: the largest share of its budget that the hard cost has been.
        shrink: the mean soft mask of kept weights, until they froze.
    """

    model: nn.Module
    learner: str
    other: Any = None
    peak: float = 0.0
    shrink: float = 1.0

    @classmethod
    def of(
        cls,
        task: Task,
        learner: str,
        density: float,
        seed: int,
        scale: Scale,
        device: str = "cpu",
        reference: str | None = None,
        **more: Any,
    ) -> Trial:
        """A new network of a task under a budget, unless given one of parameters."""
        torch.manual_seed(seed)
        model = task.make().to(device)
        if learner == "dense":
            return cls(model, learner)
        if learner == "reference":
            from rivals.authors_package import trained

            assert reference is not None, "give --reference PATH"
            return cls(model, learner, trained(reference, model, density, scale.steps))
        sparse = sparsefx.transform(
            model,
            learner,
            example_inputs=task.example,
            total_steps=scale.steps,
            **{"budget": {"params": density}} | options(learner, scale) | more,
        )
        return cls(sparse, learner)

    @property
    def ours(self) -> bool:
        """Whether sparsefx trains it."""
        return self.learner not in ("dense", "reference")

    def after(self, number: int, optimizer: torch.optim.Optimizer) -> None:
        """What follows a step of the optimizer."""
        if self.other is not None:
            self.other.step()
        if not self.ours:
            return
        given = optimizer if self.learner in TAKES_OPTIMIZER else None
        info = sparsefx.step(self.model, given)
        self.peak = max(self.peak, info.hard_cost / info.budget)
        self.shrink = self.shrink if info.frozen else info.kept_mask_mean
        within = info.hard_cost <= info.budget * (1 + 1e-9)
        assert within or sparsefx.load_policy(self.learner).inclusive, (number, info)

    def finished(self) -> dict[str, Any]:
        """Makes the network plain; returns what was kept of it."""
        if self.other is not None:
            self.other.finalize()
        if not self.ours:
            return {}
        totals = sparsefx.report(self.model).to_dict()["totals"]
        self.model = sparsefx.finalize(self.model)
        found = {cost: totals[cost]["kept"] for cost in ("macs", "params")}
        found |= {f"dense_{c}": totals[c]["dense"] for c in ("macs", "params")}
        return found | {"shrink": self.shrink}


def options(learner: str, scale: Scale) -> dict[str, Any]:
    """What a preset is given beside budget and steps."""
    found: dict[str, Any] = {}
    if learner in SELDOM:
        found["update_every"] = max(scale.steps // 30, 1)
    if learner in REGROW:
        found["drop_fraction"] = MOVES
    if learner == "spartan_paper":
        found["budget_of"] = "maskable"  # as for all others, the authors' code included
    return found
