"""What several budgets cost beside one: 300 layers, 100 million weights, bounds.

    python benchmarks/solver.py              # minutes, and half a gigabyte
    python benchmarks/solver.py --million 10

Both solve for the same weights in turn. Before each round the weights move by a
thousandth of their deviation, as in training. The three budgets are of costs that
differ by layer: parameters, uses at up to 4096 places, and bytes of rows of an index.
"""

from __future__ import annotations

import argparse
import functools
import math
from dataclasses import replace

import torch
from shared.measure import rounds, save

from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solution import Solution
from sparsefx.solver.solve import solve

BETA = 10.0


def problem(layers: int, entries: int) -> tuple[list[torch.Tensor], Limits, list]:
    """Normal weights, three costs that differ by layer, bounds on some of them."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(entries // layers, generator=generator) for _ in range(layers)
    ]
    size = weights[0].numel()
    uses = [float(4 ** (i * 7 // layers)) for i in range(layers)]
    index = [4.0 + 8.0 * (i % 3) for i in range(layers)]
    rows = ((1.0,) * layers, tuple(uses), tuple(index))
    shares = (0.10, 0.06, 0.11)
    amounts = [s * math.fsum(row) * size for s, row in zip(shares, rows, strict=True)]
    bounds = [
        (size // 50, size // 4) if i % 5 == 0 else (size // 1000, size)
        for i in range(layers)
    ]
    return weights, Limits(rows, tuple(amounts), ("params", "macs", "bytes")), bounds


def main() -> None:
    parser = argparse.ArgumentParser(description="several budgets beside one")
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--million", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights, limits, bounds = problem(options.layers, options.million * 1_000_000)
    last: dict[str, Solution] = {}

    def worths(prices: list[float], sums: tuple[float, ...]) -> list[float]:
        total = math.fsum(s / p for s, p in zip(sums, prices, strict=True))
        return [weights[0].numel() * len(weights) / total] * len(weights)

    several = Request(
        values=weights,
        limits=limits,
        worths=worths,
        bounds=bounds,
        beta=BETA,
        names=[f"layer {i}" for i in range(len(weights))],
    )
    first = Limits(limits.costs[:1], limits.amounts[:1], limits.names[:1])
    requests = {"one": replace(several, limits=first), "several": several}

    def update(name: str) -> None:
        known = last.get(name)
        warm = Warm.after(known, BETA) if known else None
        last[name] = solve(requests[name], warm)

    calls = {name: functools.partial(update, name) for name in requests}

    def move() -> None:
        for weight in weights:
            weight.add_(torch.randn_like(weight), alpha=1e-3)

    cold = rounds(calls, 1)
    move()
    update("one")
    update("several")
    times = rounds(calls, options.rounds, move)
    found = last["several"]
    ratio = times["several"]["cpu_ms"] / times["one"]["cpu_ms"]
    result = {
        "layers": len(weights),
        "entries": sum(w.numel() for w in weights),
        "times": times,
        "cold": cold,
        "ratio": ratio,
        "sweeps": {name: known.sweeps for name, known in last.items()},
        "soft": [c / k for c, k in zip(found.soft_costs, limits.amounts, strict=True)],
        "hard": [
            c / k
            for c, k in zip(limits.spent(found.counts), limits.amounts, strict=True)
        ],
        "multipliers": found.multipliers[0],
    }
    for name, row in times.items():
        print(f"{name:8} {row['cpu_ms']:8.0f} ms (cold {cold[name]['cpu_ms']:.0f} ms)")
    print(f"several budgets take {ratio:.2f} times as long; {result['soft']}")
    if not options.no_save:
        save("solver", result)


if __name__ == "__main__":
    main()
