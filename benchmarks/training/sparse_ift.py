"""Sparse-IFT on real data: dense against its four rewrites, all at the same cost.

    python benchmarks/training/sparse_ift.py             # a few hours on a CPU core
    python benchmarks/training/sparse_ift.py --report    # only the table so far

A narrow 18-layer residual net on Fashion-MNIST. Same data, recipe and steps for all;
every member's masked weights cost the dense layers' multiply-accumulates, exactly or
less by under one weight, which each run checks. Masks move by RigL as in the presets,
or by --learner. Each run is one line of --out and is not made again. The test set is
read once, when a run has ended.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from shared.result_lines import RESULTS, append, read
from tqdm import tqdm
from training.accuracy_tasks import Scale, Task, task_of
from training.recipe import fit

import sparsefx

MEMBERS = ("sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped")
KEYS = ("member", "density", "learner", "seed")
DENSITIES = (0.25, 0.5, 0.1)
UPDATES = 30  # of the masks, over a run
EVERY_STEP = ("soft_topk", "dual_averaging")  # learners that need no such interval


def run(
    task: Task, member: str, density: float, seed: int, steps: int, learner: str
) -> dict[str, Any]:
    """Trains one network; returns what its line holds."""
    torch.manual_seed(seed)
    model = dense = task.make()
    target = sparsefx.costs(dense, task.example).totals()["macs"]["maskable"]
    if member != "dense":
        every = 1 if learner in EVERY_STEP else max(steps // UPDATES, 1)
        model = sparsefx.transform(
            dense,
            member,
            density=density,
            learner=learner,
            example_inputs=task.example,
            total_steps=steps,
            update_every=every,
        )

    def after(_: int, optimizer: torch.optim.Optimizer) -> None:
        if member != "dense":
            sparsefx.step(model, optimizer)

    trained = fit(task, model, seed, steps, after)
    kept, weights = target, sum(p.numel() for p in model.parameters())
    gap, slack = None, 0.0
    if member != "dense":
        report = sparsefx.report(model)
        kept = report.totals["macs"].kept
        # no layer vanishes: ten branches of an 8-entry weight keep ten, others pay
        slack = max(r.costs["macs"].dense / math.prod(r.shape) for r in report.layers)
        layers = sparsefx.spectral_report(model).layers
        gaps = [x.ramanujan_gap for x in layers if x.ramanujan_gap == x.ramanujan_gap]
        gap = statistics.fmean(gaps) if gaps else None
        model = sparsefx.finalize(model)
    assert 0 <= target - kept <= slack, (member, density, kept, target)
    return {
        "member": member,
        "density": density,
        "learner": learner,
        "seed": seed,
        "validation": task.evaluate(model, "validation"),
        "test": task.evaluate(model, "test"),
        "macs": kept,
        "candidates": weights,
        "ramanujan_gap": gap,
        "steps": steps,
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu_seconds,
        "losses": trained.losses,
        "torch": torch.__version__,
    }


def table(out: Path) -> str:
    """Test accuracy by member and density, mean and standard deviation over seeds."""
    found: dict[tuple[str, float, str], list[float]] = {}
    macs: dict[tuple[str, float, str], float] = {}
    for one in read(out, *KEYS).values():
        key = one["member"], one["density"], one["learner"]
        found.setdefault(key, []).append(one["test"])
        macs[key] = one["macs"]
    lines = ["| member | density | learner | MACs | test accuracy, % | runs |"]
    lines.append("|---|---|---|---|---|---|")
    for key, scores in sorted(found.items(), key=_order):
        member, density, learner = key
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        given = "| - | -" if member == "dense" else f"| {density:g} | {learner}"
        score = f"{statistics.fmean(scores):.2f} ± {spread:.2f}"
        row = f"| {member} {given} | {macs[key]:,.0f} | {score} | {len(scores)} |"
        lines.append(row)
    return "\n".join(lines)


def _order(item: tuple[tuple[str, float, str], Any]) -> tuple[int, float, str]:
    (member, density, learner), _ = item
    return ("dense", *MEMBERS).index(member), -density, learner


def main() -> None:
    """Makes the runs that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--members", nargs="+", default=["dense", *MEMBERS])
    parser.add_argument("--learner", default="rigl")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS / "sparse_ift.jsonl")
    parser.add_argument("--report", action="store_true", help="make no runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable(logging.INFO)
    wanted = [
        (density, seed, member)
        for density in given.densities
        for seed in given.seeds
        for member in given.members
    ]
    task = None
    for density, seed, member in tqdm([] if given.report else wanted):
        share = 1.0 if member == "dense" else density
        learner = "" if member == "dense" else given.learner
        if (member, share, learner, seed) in read(given.out, *KEYS):
            continue
        if task is None:
            scale = Scale(given.steps, given.batch, given.width, 0, 0, 0)
            task = task_of("resnet", scale, given.data, "cpu")
        append(given.out, run(task, member, share, seed, given.steps, learner))
    print(table(given.out))


if __name__ == "__main__":
    main()
