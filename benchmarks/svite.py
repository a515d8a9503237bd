"""A small vision transformer on Fashion-MNIST: fewer units, tokens and weights.

    python benchmarks/svite.py                       # all variants, three seeds
    python benchmarks/svite.py --variants dense units --seeds 0
    python benchmarks/svite.py --report              # only the table

49 patches of 4 x 4 and a class token. Every variant has the same data, recipe, steps
and seeds; budgets are shares of the dense model's multiply-accumulates, attention
products included. No choice was made on the test set: it is read when a run has ended.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from accuracy import schedule
from accuracy_tasks import Scale, SmallViT, Task
from torch import nn

import sparsefx

SCALE = Scale(steps=1500, batch=32, width=0, dim=48, depth=3, chars=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "units": {"policy": "svite_units", "budget": {"macs": 0.5}},
}


def run(task: Task, variant: str, seed: int, scale: Scale, **more: Any) -> dict:
    """Trains one network; returns what a run's file holds."""
    torch.manual_seed(seed)
    model = SmallViT(scale.dim, scale.depth)
    asked = dict(VARIANTS[variant]) | more
    sparse = model
    given = sparsefx.costs(model, task.example).totals()["macs"]["total"]
    if asked:
        sparse = sparsefx.transform(
            model,
            example_inputs=task.example,
            total_steps=scale.steps,
            **{"update_every": max(scale.steps // 30, 1)} | asked,
        )
    optimizer = task.optimizer(sparse)
    rates = schedule(optimizer, scale.steps)
    batches, begun = task.batches(seed), time.perf_counter()
    losses = []
    for number in range(scale.steps):
        x, y = next(batches)
        loss = F.cross_entropy(sparse(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(sparse.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            # the scheduler's own call of a deprecated argument
            warnings.simplefilter("ignore", UserWarning)
            rates.step()
        if asked:
            info = sparsefx.step(sparse)
            assert info.hard_cost <= info.budget * (1 + 1e-9), (number, info)
        if number % 50 == 0:
            losses.append(round(float(loss.detach()), 4))
    seconds = time.perf_counter() - begun
    kept, rows = given, []
    if asked:
        report = sparsefx.report(sparse)
        total = report.totals["macs"]
        kept = total.kept + total.fixed
        rows = [[r.name, r.shape[0], round(r.density, 4)] for r in report.layers]
        sparse = sparsefx.finalize(sparse)
    return {
        "variant": variant,
        "seed": seed,
        "options": {k: str(v) for k, v in asked.items()},
        "validation": task.evaluate(sparse, "validation"),
        "test": task.evaluate(sparse, "test"),
        "macs": kept,
        "dense_macs": given,
        "steps": scale.steps,
        "seconds_per_step": seconds / scale.steps,
        "losses": losses,
        "rows": rows,
        "torch": torch.__version__,
    }
