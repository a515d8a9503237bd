"""The training loop that the accuracy benchmarks share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.accuracy_tasks import Task


@dataclass(frozen=True)
class Fit:
    """What a training run took: times of all steps, and some of its losses."""

    seconds: float
    cpu_seconds: float
    losses: list[float]


def fit(
    task: Task,
    model: nn.Module,
    seed: int,
    steps: int,
    after: Callable[[int, torch.optim.Optimizer], None],
) -> Fit:
    """Trains a model by the task's recipe.

    Args:
        after: called with the number of the step and the optimizer when it has stepped.
    """
    begun, busy = time.perf_counter(), time.process_time()
    losses = [
        round(float(loss), 4)
        for number, loss in enumerate(training(task, model, seed, steps, after))
        if number % 50 == 0
    ]
    wall, cpu = time.perf_counter() - begun, time.process_time() - busy
    return Fit(wall, cpu, losses)


def training(
    task: Task,
    model: nn.Module,
    seed: int,
    steps: int,
    after: Callable[[int, torch.optim.Optimizer], None],
) -> Iterator[Tensor]:
    """The same, a step at a time; gives each step's loss."""
    optimizer = task.optimizer(model)
    rates = schedule(optimizer, steps, task.warm_up, task.last_rate)
    batches = task.batches(seed)
    for number in range(steps):
        x, y = next(batches)
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            # the scheduler's own call of a deprecated argument
            warnings.simplefilter("ignore", UserWarning)
            rates.step()
        after(number, optimizer)
        yield loss.detach()


def schedule(
    optimizer: torch.optim.Optimizer, steps: int, warm_up: float, last: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear warm-up over a share of the steps, then a cosine to a share of it."""
    floor = last * optimizer.param_groups[0]["lr"]
    first = max(int(warm_up * steps), 1)
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1 / first, 1.0, first),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - first, floor),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [first])
