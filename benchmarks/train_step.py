"""What a masked training step costs, beside the dense one.

    python benchmarks/train_step.py                  # eager, both networks
    python benchmarks/train_step.py --compile        # the same under torch.compile
    python benchmarks/train_step.py --reference PATH # a checkout of the authors' code

Forward, loss, backward, optimizer and `sparsefx.step` on the same batch, in turn in
one process: (a) the dense step, ours, (b) dense with the authors' route plainly after
it, (c) the authors' package, (d) dense with a mask of `torch.nn.utils.prune`. The
peaks of memory are those of one process for each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from rivals.authors_package import sparsifier
from rivals.authors_route import project
from shared.measure import bars, peak_bytes, rounds, save
from shared.result_lines import RESULTS
from torch import nn
from torch.nn.utils import prune
from training.networks import ViT, resnet

import sparsefx

DENSITY, BETA, BATCH = 0.1, 10.0, 32
MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "vit": ViT}


def stepper(
    kind: str, name: str, compiled: bool, path: str | None
) -> Callable[[], object]:
    """One training step of a variant, as a function."""
    torch.manual_seed(0)
    model = MODELS[name]()
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    after: Callable[[], object] = lambda: None  # noqa: E731
    weights = [p for p in model.parameters() if p.ndim > 1]
    if kind == "sparsefx":
        model = sparsefx.transform(
            model,
            cost="params",
            budget=DENSITY,
            beta=BETA,
            total_steps=None,
            example_inputs=(x,),
        )
        sparse = model
        after = lambda: sparsefx.step(sparse)  # noqa: E731
    elif kind == "authors_route":
        entries = sum(w.numel() for w in weights)
        ones = [1.0] * len(weights)
        after = lambda: project(weights, ones, ones, DENSITY * entries, BETA)  # noqa: E731
    elif kind == "authors_package":
        assert path is not None
        after = sparsifier(path, model, DENSITY, BETA).step
    elif kind == "torch_prune":
        pairs = [
            (m, "weight")
            for m in model.modules()
            if isinstance(m, nn.Linear | nn.Conv2d)
        ]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=1 - DENSITY)
    if name == "vit":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    else:
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        nn.functional.cross_entropy(forward(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        after()

    return step


def peak(kind: str, name: str, compiled: bool, path: str | None) -> float:
    """Peak memory of three steps in a process of its own, above that before."""
    command = [sys.executable, __file__, "--peak", kind, "--models", name]
    command += ["--compile"] if compiled else []
    command += ["--reference", path] if path else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of a masked training step")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--reference", help="a checkout of facebookresearch/spartan")
    parser.add_argument("--only-ours", action="store_true", help="and the dense step")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kinds = ["dense", "sparsefx"]
    if not options.only_ours:
        kinds += ["authors_route", "torch_prune"]
        kinds += ["authors_package"] if options.reference else []
    if options.peak:
        # what is imported once, such as sympy, is not a step's
        sparsefx.transform(nn.Linear(2, 2), example_inputs=(torch.ones(1, 2),))
        arguments = (options.models[0], options.compile, options.reference)
        print(peak_bytes(lambda: stepper(options.peak, *arguments), 3))
        return
    rows = []
    for name in options.models:
        arguments = (name, options.compile, options.reference)
        calls = {kind: stepper(kind, *arguments) for kind in kinds}
        for _ in range(3):
            for call in calls.values():
                call()
        times = rounds(calls, options.rounds)
        dense = times["dense"]
        ratios = {k: row["cpu_ms"] / dense["cpu_ms"] for k, row in times.items()}
        memory = {kind: peak(kind, *arguments) for kind in kinds}
        rows.append(
            {
                "model": name,
                "compiled": options.compile,
                "times": times,
                "cpu_ratio": ratios,
                "wall_ratio": {
                    k: row["wall_ms"] / dense["wall_ms"] for k, row in times.items()
                },
                "peak_bytes": memory,
                "peak_ratio": {k: v / memory["dense"] for k, v in memory.items()},
            }
        )
        print(f"{name} {'compiled' if options.compile else 'eager'}:", flush=True)
        for kind in kinds:
            print(
                f"  {kind:16} {times[kind]['cpu_ms']:8.1f} ms CPU, x "
                f"{ratios[kind]:.3f}; peak memory x "
                f"{memory[kind] / memory['dense']:.3f}",
                flush=True,
            )
    if not options.no_save:
        head = {"compiled": options.compile, "batch": BATCH}
        save("train_step", {**head, "density": DENSITY, "beta": BETA, "rows": rows})
        bars(
            RESULTS
            / f"train_step-cpu-{'compiled' if options.compile else 'eager'}.svg",
            "CPU time of a training step, dense = 1",
            [
                (f"{r['model']}: {k}", v)
                for r in rows
                for k, v in r["cpu_ratio"].items()
            ],
            "x",
        )


if __name__ == "__main__":
    main()
