"""Pruning plasticity: what a network regains after it has been pruned once, by when.

    python benchmarks/training/plasticity.py             # the runs, then the table
    python benchmarks/training/plasticity.py --report    # only the table

The residual net of the accuracy benchmark on Fashion-MNIST, 300 steps of 32 images. At
shares of the run it is copied and pruned once, over all layers by magnitude or in each
alike ("uniform"); half of what is left may then give way, in each layer, to as many
weights of largest gradient or drawn at random. The copy trains on for 50 steps at a
constant learning rate: the one it had ("kept"), or the run's peak ("peak"). Plasticity
is the accuracy after that, less that before pruning, on 2,000 images of the validation
set: the study of GraNet's authors (arXiv 2106.10404), small. What is not pruned
("none") trains on alike.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from shared.result_lines import RESULTS, append, read
from torch import nn
from training.accuracy_tasks import QUICK, Task, fashion, vision
from training.recipe import training

from sparsefx.training.plasticity import Plasticity, pruning_plasticity

KEYS = ("seed", "moment", "rate", "growth", "lr")
MOMENTS = (0.1, 0.6, 0.9)
RATES = (0.95,)
IMAGES = 2000  # of the validation set
GROWN = ("gradient", "random")
STEPS, LATER = QUICK["resnet"].steps, 50
ASKED = (
    ("none", "kept", 0.0),
    ("none", "peak", 0.0),
    *(
        (growth, "kept", rate)
        for growth in ("prune", "uniform", "gradient", "random")
        for rate in RATES
    ),
    ("prune", "peak", RATES[-1]),
)


def snapshots(task: Task, seed: int) -> Iterator[tuple[float, nn.Module, float]]:
    """The dense network at each moment of its run, and its learning rate there."""
    torch.manual_seed(seed)
    model, rates = task.make(), []
    wanted = {round(share * STEPS): share for share in MOMENTS}

    def after(number: int, optimizer: torch.optim.Optimizer) -> None:
        rates.append(float(optimizer.param_groups[0]["lr"]))

    for number, _ in enumerate(training(task, model, seed, STEPS, after), start=1):
        if number in wanted:
            yield wanted[number], copy.deepcopy(model), rates[-1]


def scoring(folder: Path | None) -> Callable[[nn.Module], float]:
    """The accuracy of a network, in percent."""
    x, y = (held[:IMAGES] for held in fashion(folder, "cpu")["validation"])

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        model.eval()
        right = int((model(x).argmax(1) == y).sum())
        model.train()
        return 100 * right / IMAGES

    return evaluate


def trial(
    task: Task,
    evaluate: Callable[[nn.Module], float],
    model: nn.Module,
    seed: int,
    asked: tuple[str, float, float],
) -> Plasticity:
    """One pruning of a snapshot, and what became of it.

    Args:
        asked: how it grows, the share that is pruned, the learning rate after it.
    """
    growth, rate, lr = asked
    more: dict[str, dict[str, Any]] = {
        "random": {"learner": "set", "seed": seed},
        "uniform": {"allocation": "uniform"},
    }
    batches = task.batches(1000 + seed)

    def loss(network: nn.Module) -> torch.Tensor:
        x, y = next(batches)
        found: torch.Tensor = F.cross_entropy(network(x), y)
        return found

    def backward(network: nn.Module) -> None:
        loss(network).backward()  # type: ignore[no-untyped-call]

    def train(network: nn.Module) -> None:
        optimizer = task.optimizer(network)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for _ in range(LATER):
            optimizer.zero_grad()
            backward(network)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    if growth == "none":
        before = evaluate(model)
        train(model)
        return Plasticity(0.0, before, before, evaluate(model))
    return pruning_plasticity(
        model,
        rate=rate,
        train=train,
        evaluate=evaluate,
        regrow=0.5 if growth in GROWN else 0.0,
        backward=backward if growth == "gradient" else None,
        example_inputs=task.example,
        **more.get(growth, {}),
    )


def table(results: Mapping[Any, dict[str, Any]]) -> str:
    """Plasticity in points of accuracy, mean over seeds and standard deviation."""
    heads = "".join(f" after {share:.0%} |" for share in MOMENTS)
    lines = [
        f"| pruned | grown | learning rate |{heads}",
        "|---|---|---|---|---|---|",
    ]
    for growth, lr, rate in ASKED:
        cells = []
        for moment in MOMENTS:
            found = [
                run["after"] - run["before"]
                for key, run in results.items()
                if key[1:] == (moment, rate, growth, lr)
            ]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(
                f"{statistics.mean(found):+.1f}{spread} ({len(found)})"
                if found
                else "-"
            )
        grown = growth if growth in GROWN else "-"
        share = f"{rate:.0%}" if rate else "not"
        share += ", each layer" if growth == "uniform" else ""
        lines.append(f"| {share} | {grown} | {lr} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Makes the runs that are missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS / "plasticity.jsonl")
    parser.add_argument("--report", action="store_true", help="make no runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [] if given.report else given.seeds
    if seeds:
        task = vision("resnet", QUICK["resnet"], given.data, "cpu")
        evaluate = scoring(given.data)
    for seed in seeds:
        peak = float(task.optimizer(task.make()).param_groups[0]["lr"])
        known = read(given.out, *KEYS)
        for moment, model, lr in snapshots(task, seed):
            for growth, kind, rate in ASKED:
                if (seed, moment, rate, growth, kind) in known:
                    continue
                asked = growth, rate, peak if kind == "peak" else lr
                found = trial(task, evaluate, copy.deepcopy(model), seed, asked)
                run = dict(zip(KEYS, (seed, moment, rate, growth, kind), strict=True))
                scores = {n: getattr(found, n) for n in ("before", "pruned", "after")}
                append(given.out, {**run, "learning_rate": asked[2], **scores})
    print(table(read(given.out, *KEYS)))


if __name__ == "__main__":
    main()
