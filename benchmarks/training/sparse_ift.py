"""Sparse-IFT on real data: dense against its four rewrites, all at the same cost.

    python benchmarks/training/sparse_ift.py             # a few hours on a CPU core
    python benchmarks/training/sparse_ift.py --report    # only the table so far
    python benchmarks/training/sparse_ift.py --task gpt  # the recipe of GPT-3 Small

A narrow 18-layer residual net on Fashion-MNIST; or a character model by the published
recipe for GPT-3 Small: attention and MLP are widened and masked, heads keep their
number, embeddings and head stay dense (and are paid for, which they are not there),
RigL from 30 % every 500 of 21 511 steps until 80 %, AdamW with betas .9 and .95, decay
.1, clipping at 1, a tenth of the steps to warm up, a cosine to a tenth of the rate;
scores are bits a character. Same data, recipe and steps for all;
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
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from shared.result_lines import RESULTS, append, read
from torch import nn
from tqdm import tqdm
from training.accuracy_tasks import QUICK, Scale, Task, task_of
from training.recipe import fit

import sparsefx

MEMBERS = ("sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped")
KEYS = ("member", "density", "learner", "seed")
DENSITIES = (0.25, 0.5, 0.1)
UPDATES = 30  # of the masks, over a run
GPT = {
    "rewrite_options": {"iso": "maskable"},
    "update_every": 500 / 21_511,
    "freeze_step": 0.8,
}
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
            **({"update_every": every} | (GPT if task.name == "gpt" else {})),
        )

    def after(_: int, optimizer: torch.optim.Optimizer) -> None:
        if member != "dense":
            sparsefx.step(model, optimizer)

    trained = fit(task, model, seed, steps, after)
    kept, weights = target, sum(p.numel() for p in model.parameters())
    spectra: dict[str, float] = {}
    slack = 0.0
    if member != "dense":
        report = sparsefx.report(model)
        kept = report.totals["macs"].kept
        # no layer vanishes: ten branches of an 8-entry weight keep ten, others pay
        slack = max(r.costs["macs"].dense / math.prod(r.shape) for r in report.layers)
        spectra = sparsefx.spectral_report(model).means()
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
        **{name: x if math.isfinite(x) else None for name, x in spectra.items()},
        "steps": steps,
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu_seconds,
        "losses": trained.losses,
        "torch": torch.__version__,
    }


def gpt_task() -> Task:
    """The character model under GPT's recipe; the rate is that of so small a model."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        wide = [p for p in model.parameters() if p.ndim >= 2]
        rest = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": wide}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, 3e-3, (0.9, 0.95), weight_decay=0.1)

    task = task_of("chars", QUICK["chars"], None, "cpu")
    return replace(task, name="gpt", optimizer=optimizer, warm_up=0.1, last_rate=0.1)


def table(out: Path) -> str:
    """Test score by member and density, mean and standard deviation over seeds."""
    found: dict[tuple[str, float, str], list[float]] = {}
    macs: dict[tuple[str, float, str], float] = {}
    for one in read(out, *KEYS).values():
        key = one["member"], one["density"], one["learner"]
        found.setdefault(key, []).append(one["test"])
        macs[key] = one["macs"]
    lines = ["| member | density | learner | MACs | test score | runs |"]
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
    parser.add_argument("--task", choices=("resnet", "gpt"), default="resnet")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--members", nargs="+", default=["dense", *MEMBERS])
    parser.add_argument("--learner", default="rigl")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, help="default: by the task's name")
    parser.add_argument("--report", action="store_true", help="make no runs")
    given = parser.parse_args()
    name = "sparse_ift" if given.task == "resnet" else "sparse_ift_gpt"
    given.out = given.out or RESULTS / f"{name}.jsonl"
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
            gpt = given.task == "gpt"
            task = gpt_task() if gpt else task_of("resnet", scale, given.data, "cpu")
        append(given.out, run(task, member, share, seed, given.steps, learner))
    print(table(given.out))


if __name__ == "__main__":
    main()
