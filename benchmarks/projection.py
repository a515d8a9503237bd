"""What one step of the masks costs, beside a plain read and the known ways.

    python benchmarks/projection.py                  # 25 million weights, minutes
    python benchmarks/projection.py --tensors 10     # a fifth of them
    python benchmarks/projection.py --reference PATH # a checkout of the authors' code

Everything is timed in one process, in turn: (a) nothing is masked: no cost; the step of
sparsefx; (b) the authors' route written plainly; (c) their package; (d) global pruning
of torch; (e) one plain read, `sum`, the floor. Before each round the weights move by a
thousandth of their deviation and beta by a thousandth, as in training.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import torch
from rivals.authors_package import projector
from rivals.authors_route import project
from shared.measure import bars, extra_bytes, rounds, save
from shared.result_lines import RESULTS
from torch import nn
from torch.nn.utils import prune

import sparsefx
from sparsefx.training.life import Life, life_of

DENSITY = 0.1


def network(tensors: int) -> nn.Module:
    """Linear layers of half a million weights each, normally distributed."""
    shapes = [(1000, 500), (500, 1000)]
    layers = [nn.Linear(*shapes[i % 2], bias=False) for i in range(tensors)]
    for layer in layers:
        nn.init.normal_(layer.weight)
    return nn.Sequential(*layers)


def move(model: nn.Module, life: Life) -> None:
    """As one step of an optimizer and a schedule would."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=1e-3)
    policy = replace(life.plan.policy, beta=1.001 * life.plan.policy.beta)
    life.plan = life.parts[-1].plan = replace(life.plan, policy=policy)


def prune_globally(model: nn.Module) -> None:
    """`torch.nn.utils.prune`, undone so that it can be timed again."""
    pairs = [(layer, "weight") for layer in model]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=1 - DENSITY)
    for layer, name in pairs:
        prune.remove(layer, name)


def compare(
    model: nn.Module, beta: float, normalize: str, count: int, path: str | None
) -> dict[str, object]:
    """One row of the table."""
    sparse = sparsefx.transform(
        model,
        cost="params",
        budget=DENSITY,
        beta=beta,
        normalize=normalize,
        example_inputs=(torch.zeros(2, 1000),),
    )
    life = life_of(sparse, "step")
    pruned = copy.deepcopy(model)
    weights = [weight.detach() for weight in model.parameters()]
    entries = sum(weight.numel() for weight in weights)
    worths = life.plan.worths(weights)

    def authors() -> None:
        project(weights, [1.0] * len(weights), worths, DENSITY * entries, beta)

    calls = {
        "read": lambda: [float(weight.sum()) for weight in weights],
        "sparsefx": lambda: sparsefx.step(sparse),
        "authors_route": authors,
        "torch_prune": lambda: prune_globally(pruned),
    }
    rare = {"authors_route": 1, "torch_prune": 1}  # they take seconds
    if path is not None:
        calls["authors_package"] = projector(path, model, DENSITY, beta)
        rare["authors_package"] = 1
    for _ in range(2):  # the first steps are cold, and make the masks
        sparsefx.step(sparse)
        move(model, life)
    times = rounds(calls, count, lambda: move(model, life), rare)
    move(model, life)
    memory = extra_bytes(calls["sparsefx"]) / entries
    move(model, life)
    info = sparsefx.step(sparse)
    kept = sum(t.numel() * t.element_size() for t in life.parts[-1].kept) / entries
    cost = {name: row["cpu_ms"] for name, row in times.items()}
    return {
        "beta": beta,
        "normalize": normalize,
        "entries": entries,
        "times": times,
        "reads": cost["sparsefx"] / cost["read"],
        "faster": {
            name: cost[name] / cost["sparsefx"] for name in cost if name in rare
        },
        "peak_bytes_per_weight": memory,
        "kept_bytes_per_weight": kept,
        "sweeps": info.sweeps,
        "soft_error": abs(info.soft_cost / info.budget - 1),
        "hard_error": 1 - info.hard_cost / info.budget,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of one projection")
    parser.add_argument("--tensors", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 5.0, 20.0])
    parser.add_argument("--reference", help="a checkout of facebookresearch/spartan")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, rows = network(options.tensors), []
    for normalize in ("layer", "none"):
        for beta in options.betas:
            row = compare(model, beta, normalize, options.rounds, options.reference)
            rows.append(row)
            ours = row["times"]["sparsefx"]["cpu_ms"]
            print(
                f"{normalize:5} beta {beta:4g}: {ours:7.1f} ms = {row['reads']:5.2f} "
                f"reads, {row['sweeps']} sweeps, authors' route "
                f"{row['faster']['authors_route']:.0f}x slower, torch prune "
                f"{row['faster']['torch_prune']:.0f}x; "
                f"{row['peak_bytes_per_weight']:.3f} + "
                f"{row['kept_bytes_per_weight']:.3f} bytes a weight; soft error "
                f"{row['soft_error']:.1e}",
                flush=True,
            )
    if not options.no_save:
        save("projection", {"density": DENSITY, "rows": rows})
        times = rows[len(options.betas) // 2]["times"]
        names = {
            "authors_package": "authors' package",
            "authors_route": "authors' route, plainly",
            "torch_prune": "torch global pruning",
            "sparsefx": "sparsefx.step",
            "read": "one plain read (sum)",
        }
        bars(
            RESULTS / "projection-cpu.svg",
            f"CPU time to project {rows[0]['entries'] / 1e6:.0f} million weights",
            [(label, times[n]["cpu_ms"]) for n, label in names.items() if n in times],
            "ms",
        )


if __name__ == "__main__":
    main()
