"""What a training step costs with each learner, beside the dense one.

    python benchmarks/training/learner_times.py                   # quick networks, 95 %
    python benchmarks/training/learner_times.py --reference PATH  # the authors' too

Each learner trains its network through a whole short schedule, so that ramps, updates
and the freeze count as they do in a run; all in one process, a step of each in turn.
The figure is the process CPU time of all steps, divided by their number.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accuracy import LEARNERS
from shared.measure import save
from tqdm import tqdm
from training.accuracy_tasks import SCALES, Task, task_of
from training.recipe import training
from training.trial import Trial

DENSITY = 0.05


def times(
    task: Task, learners: list[str], steps: int, reference: str | None
) -> dict[str, float]:
    """Mean CPU milliseconds of a training step, by learner."""
    scale = replace(SCALES["quick"][task.name], steps=steps)
    runs = {}
    for learner in learners:
        trial = Trial.of(task, learner, DENSITY, 0, scale, reference=reference)
        runs[learner] = training(task, trial.model, 0, steps, trial.after)
    spent = dict.fromkeys(learners, 0.0)
    for _ in tqdm(range(steps)):
        for learner, run in runs.items():
            begun = time.process_time()
            next(run)
            spent[learner] += time.process_time() - begun
    return {learner: 1e3 * total / steps for learner, total in spent.items()}


def main() -> None:
    """Prints a table and saves what it shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["resnet", "vit", "chars"])
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--reference", help="a checkout of the authors' Spartan")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    learners = [*given.learners, *(["reference"] if given.reference else [])]
    rows = {}
    for name in given.tasks:
        task = task_of(name, SCALES["quick"][name], given.data, "cpu")
        rows[name] = times(task, learners, given.steps, given.reference)
    print(f"| learner | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    for learner in learners:
        cells = [
            f"{row[learner]:.1f} ms, {row[learner] / row[learners[0]]:.2f}x"
            for row in rows.values()
        ]
        print(f"| {learner} | {' | '.join(cells)} |")
    save("learner_times", {"density": DENSITY, "steps": given.steps, "rows": rows})


if __name__ == "__main__":
    main()
