"""A small vision transformer on Fashion-MNIST: fewer units, tokens and weights.

    python benchmarks/training/svite.py                 # all variants, three seeds
    python benchmarks/training/svite.py --variants dense units --seeds 0
    python benchmarks/training/svite.py --report        # only the table

16 patches of 7 x 7 and a class token, three blocks of width 48. Every variant has the
same data, recipe, steps and seeds; budgets are shares of the dense model's
multiply-accumulates, attention products included. No choice was made on the test set:
it is read when a run has ended.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from shared.result_lines import RESULTS, append, read
from training.accuracy_tasks import Scale, Task, small_vit, vision
from training.recipe import fit

import sparsefx

KEYS = ("variant", "seed")
SCALE = Scale(steps=1500, batch=32, width=0, dim=48, depth=3, chars=0)
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "units": {"policy": "units", "budget": {"macs": 0.5}},
    "tokens": {
        "policy": "svite_tokens",
        "budget": {"macs": 0.7},
        "tokens": {"before": 1},
    },
    "tokens + weights": {
        "policy": "gmp",
        "budget": {"macs": 0.5},
        "optimizer_state": "keep",
        "budget_of": "model",
        "tokens": {"before": 1, "min_keep": 0.75},
    },
    "svite_joint": {"policy": "svite_joint", "budget": {"macs": 0.5}},
    # the same counts of units, random at first, that move as published, less, or not
    **{
        f"svite_units, {moves:g} moves": {
            "policy": "svite_units",
            "budget": {"macs": 0.5},
            "drop_fraction": moves,
            "drop_fraction_final": 0.01 * moves,
        }
        for moves in (0.5, 0.1, 0.0)
    },
    **{
        f"units at {share:.0%}": {"policy": "units", "budget": {"macs": share}}
        for share in (0.7, 0.6, 0.4, 0.3)
    },
    # half of the weights, and so many of the 16 tokens before the first block
    **{
        f"svite, {keep} tokens": {
            "policy": "svite",
            "budget": {"params": 0.5},
            **({"tokens": {"before": 0, "keep": keep}} if keep < 16 else {}),
        }
        for keep in (16, 15, 12, 8)
    },
}


def run(task: Task, variant: str, seed: int, scale: Scale, **more: Any) -> dict:
    """Trains one network; returns what a run's file holds."""
    torch.manual_seed(seed)
    model = small_vit(scale.dim, scale.depth)
    asked = dict(VARIANTS[variant]) | more
    sparse = model
    given = sparsefx.costs(model, task.example).totals()["macs"]["total"]
    if asked:
        sparse = sparsefx.transform(
            model,
            example_inputs=task.example,
            total_steps=scale.steps,
            **{"update_every": max(scale.steps // 30, 1), "seed": seed} | asked,
        )

    def after(number: int, _: torch.optim.Optimizer) -> None:
        if asked:
            info = sparsefx.step(sparse)
            assert info.hard_cost <= info.budget * (1 + 1e-9), (number, info)

    trained = fit(task, sparse, seed, scale.steps, after)
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
        "cpu_seconds_per_step": trained.cpu_seconds / scale.steps,
        "losses": trained.losses,
        "rows": rows,
        "torch": torch.__version__,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Accuracy and cost, mean over seeds and standard deviation."""
    lines = [
        "| | test accuracy, % | against dense | MACs kept | CPU ms a step | seeds |",
        "|---|---|---|---|---|---|",
    ]
    scores = {
        name: [r["test"] for r in results if r["variant"] == name] for name in VARIANTS
    }
    for name, found in scores.items():
        if not found:
            continue
        rows = [r for r in results if r["variant"] == name]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        gap = statistics.mean(found) - statistics.mean(scores["dense"] or [0.0])
        kept = statistics.mean(r["macs"] / r["dense_macs"] for r in rows)
        busy = statistics.median(r["cpu_seconds_per_step"] for r in rows)
        lines.append(
            f"| {name} | {statistics.mean(found):.2f} ± {spread:.2f} | {gap:+.2f} | "
            f"{kept:.1%} | {1000 * busy:.0f} | {len(found)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Makes the runs that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS / "svite.jsonl")
    parser.add_argument("--report", action="store_true", help="make no runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task = None if given.report else vision("vit", SCALE, given.data, "cpu")
    for seed in given.seeds:
        for variant in given.variants:
            if task is None or (variant, seed) in read(given.out, *KEYS):
                continue
            append(given.out, run(task, variant, seed, SCALE))
    print(table(list(read(given.out, *KEYS).values())))


if __name__ == "__main__":
    main()
