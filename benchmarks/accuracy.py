"""Every learner on real data: accuracy, cost and time at several sparsities.

    python benchmarks/accuracy.py                    # about two hours on a CPU core
    python benchmarks/accuracy.py --scale longer     # the same networks, four times
    python benchmarks/accuracy.py --scale full       # for a GPU
    python benchmarks/accuracy.py --report           # only the table and the figure
    python benchmarks/accuracy.py --reference PATH   # also the authors' Spartan

Each run is one line of --out and is not made again. Same network, data, recipe and
steps for all; the budget counts parameters, as in the papers. No choice was made on the
test set: it is read once, when a run has ended.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from shared.result_lines import RESULTS, append, read
from tqdm import tqdm
from training.accuracy_report import KEYS, write
from training.accuracy_tasks import SCALES, Scale, Task, task_of
from training.recipe import fit
from training.trial import Trial

LEARNERS = (
    "dense",
    "spartan",
    "gmp",
    "rigl",
    "granet",
    "set",
    "topkast",
    "granet_sparse",
    "magnitude",
    "fixed",
)
DENSITIES = (0.05, 0.1, 0.02, 0.2)  # the most telling first


def run(
    task: Task,
    learner: str,
    density: float,
    seed: int,
    scale: Scale,
    device: str,
    reference: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Trains one network; returns what a run's line holds."""
    trial = Trial.of(task, learner, density, seed, scale, device, reference, **more)
    trained = fit(task, trial.model, seed, scale.steps, trial.after)
    found = trial.finished()
    return {
        "task": task.name,
        "learner": learner,
        "density": density,
        "seed": seed,
        "validation": task.evaluate(trial.model, "validation"),
        "test": task.evaluate(trial.model, "test"),
        "steps": scale.steps,
        "seconds_per_step": trained.seconds / scale.steps,
        "cpu_seconds_per_step": trained.cpu_seconds / scale.steps,
        "most_of_budget": trial.peak,
        "losses": trained.losses,
        "device": device,
        "torch": torch.__version__,
        **found,
    }


def main() -> None:
    """Makes the runs that are missing, then the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=tuple(SCALES), default="quick")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="make no runs")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy.jsonl")
    parser.add_argument("--tasks", nargs="+", default=["resnet", "vit", "chars"])
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS))
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--reference", help="a checkout of the authors' Spartan")
    parser.add_argument("--page", type=Path, help="the page that gets table and figure")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scales = SCALES[given.scale]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learners = [*given.learners, *(["reference"] if given.reference else [])]
    wanted = [
        (seed, density, task, learner)
        for seed in given.seeds
        for density in given.densities
        for task in given.tasks
        for learner in learners
    ]
    tasks: dict[str, Task] = {}
    for seed, density, name, learner in tqdm([] if given.report else wanted):
        share = 1.0 if learner == "dense" else density
        key = given.scale, name, learner, share, seed
        if key in read(given.out, *KEYS):
            continue
        if name not in tasks:
            tasks[name] = task_of(name, scales[name], given.data, device)
        logging.disable(logging.INFO)
        result = run(
            tasks[name], learner, share, seed, scales[name], device, given.reference
        )
        append(given.out, {"scale": given.scale, **result})
    write(given.out, given.page, given.scale)


if __name__ == "__main__":
    main()
