"""One change at a time: what a budget, an allocation or a setting does to accuracy.

    python benchmarks/training/variants.py                      # what is missing of all
    python benchmarks/training/variants.py --questions authors  # of one question
    python benchmarks/training/variants.py --report             # only the tables

The networks, data, recipe, steps and seeds of the quick set of benchmarks/accuracy.py,
95 % sparse unless said otherwise. Each run is one line of --out and is not made again;
the test set is read once, when a run has ended.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accuracy import run
from shared.result_lines import RESULTS, append, read
from training.accuracy_report import KEYS as QUICK_KEYS
from training.accuracy_report import spread
from training.accuracy_tasks import QUICK, Task, task_of

KEYS = ("question", "variant", "task", "seed")
BOTH = ("resnet", "vit")
DENSITY = 0.05
UPDATES = 30  # of the masks, in the quick set
FLOORS = {"keep_units": True, "inclusive": False}  # the one refuses the other


@dataclass(frozen=True)
class Variant:
    """A learner with settings of its own, `longer` times the quick set's steps."""

    learner: str
    settings: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = BOTH
    longer: int = 1


def paper(**settings: Any) -> Variant:
    """The preset that follows the authors' code, changed."""
    return Variant("spartan_paper", settings)


def blocks(granularity: str) -> Variant:
    """Spartan at 90 % in the layers that blocks of 16 x 16 fill."""
    chosen = {
        "granularity": granularity,
        "exclude": ("patch", "head"),
        "budget": {"params": 0.1},
        "budget_of": "selected",
    }
    return Variant("spartan_block", chosen, ("vit",))


def macs(learner: str, share: float) -> Variant:
    """A budget of multiply-accumulates; on the transformer it is one of parameters."""
    return Variant(learner, {"budget": {"macs": share}}, ("resnet",))


QUESTIONS: dict[str, dict[str, Variant]] = {
    "authors": {
        "spartan_paper": paper(),
        "with floors": paper(**FLOORS),
        "with beta in units of the mean": paper(normalize="global"),
        "with both": paper(**FLOORS, normalize="global"),
    },
    "macs": {
        "spartan, 17 % of MACs": macs("spartan", 0.17),
        **{
            f"{learner}, 5 % of MACs": macs(learner, 0.05)
            for learner in (
                "spartan",
                "cost_budget",
                "gmp",
                "granet",
                "rigl",
                "topkast",
            )
        },
    },
    "allocations": {
        name: Variant("spartan", {"allocation": name}) for name in ("uniform", "erk")
    },
    "blocks": {
        name: blocks(name)
        for name in ("unstructured", "block:4x4", "block:8x8", "block:16x16")
    },
    "extended": {f"rigl, {n} times": Variant("rigl", longer=n) for n in (2, 5)},
}
# what the quick set has of the same question, at DENSITY
BESIDE = {
    "authors": ("reference", "spartan"),
    "macs": ("spartan", "cost_budget", "gmp", "granet", "rigl", "topkast"),
    "allocations": ("spartan",),
    "extended": ("dense", "rigl"),
}


def trained(question: str, name: str, task: Task, seed: int) -> dict[str, Any]:
    """Trains one network; returns what its line holds."""
    variant, scale = QUESTIONS[question][name], QUICK[task.name]
    settings = dict(variant.settings)
    if variant.longer > 1:  # masks move as often in so many steps as in the quick set
        settings["update_every"] = scale.steps // UPDATES
    scale = replace(scale, steps=variant.longer * scale.steps)
    found = run(task, variant.learner, DENSITY, seed, scale, "cpu", **settings)
    del found["density"], found["losses"]
    names = {"question": question, "variant": name}
    return {**names, "settings": {k: str(v) for k, v in settings.items()}, **found}


def table(
    question: str, runs: list[dict[str, Any]], quick: list[dict[str, Any]]
) -> str:
    """Test accuracy and what is left, mean and deviation over seeds."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    tasks = {task for one in QUESTIONS[question].values() for task in one.tasks}
    for one in quick:
        if one["learner"] in BESIDE.get(question, ()) and one["task"] in tasks:
            rows[f"*{one['learner']}*", one["task"]].append(one)
    for name in QUESTIONS[question]:
        for one in runs:
            if (one["question"], one["variant"]) == (question, name):
                rows[name, one["task"]].append(one)
    lines = [
        f"**{question}**\n",
        "| variant | net | test accuracy, % | parameters kept | MACs kept |",
        "|---|---|---|---|---|",
    ]
    for (name, task), found in rows.items():
        shares = [
            f"{statistics.fmean(r[c] / r[f'dense_{c}'] for r in found):.1%}"
            if c in found[0]
            else "-"
            for c in ("params", "macs")
        ]
        score = spread([one["test"] for one in found])
        lines.append(f"| {name} | {task} | {score} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Makes the runs that are missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--tasks", nargs="+", default=list(BOTH))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS / "variants.jsonl")
    parser.add_argument("--report", action="store_true", help="make no runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    tasks: dict[str, Task] = {}
    wanted = [
        (question, name, task, seed)
        for question in given.questions
        for seed in given.seeds
        for name, variant in QUESTIONS[question].items()
        for task in variant.tasks
        if task in given.tasks
    ]
    for question, name, net, seed in [] if given.report else wanted:
        if (question, name, net, seed) in read(given.out, *KEYS):
            continue
        if net not in tasks:
            tasks[net] = task_of(net, QUICK[net], given.data, "cpu")
        append(given.out, trained(question, name, tasks[net], seed))
    kept = list(read(given.out, *KEYS).values())
    quick = [
        one
        for one in read(RESULTS / "accuracy.jsonl", *QUICK_KEYS).values()
        if one["scale"] == "quick" and one["density"] in (DENSITY, 1.0)
    ]
    for question in given.questions:
        print(table(question, kept, quick), end="\n\n")


if __name__ == "__main__":
    main()
