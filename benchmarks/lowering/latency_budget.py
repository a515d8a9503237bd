"""Trains under a budget of milliseconds, lowers, and compares with what was asked.

    python benchmarks/lowering/latency_budget.py [--steps 20] [--out FILE]

A network of four linear layers of 1024 units at batch 64, one thread. The budget is a
share of the dense model under ``torch.compile``; so is what the lowered model takes,
by medians of interleaved rounds of process time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from shared.result_lines import append
from torch import Tensor, nn

import sparsefx
from sparsefx.lowering.lowered import compiled
from sparsefx.lowering.timing import interleaved

RUNS = [("cost_budget", 0.6), ("cost_budget", 0.4), ("same_latency", 0.6)]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def trained(policy: str, share: float, x: Tensor, steps: int) -> nn.Module:
    sparse = sparsefx.transform(
        network(),
        policy,
        example_inputs=(x,),
        budget={"latency_ms": share},
        total_steps=steps,
    )
    optimizer = torch.optim.AdamW(sparse.parameters(), 1e-3)
    y = torch.randint(10, (len(x),), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        F.cross_entropy(sparse(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    print(sparsefx.report(sparse))
    return sparsefx.finalize(sparse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, help="gets a line a run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    for policy, share in RUNS:
        start = time.perf_counter()
        dense = trained(policy, share, x, options.steps)
        seconds = time.perf_counter() - start
        fast = sparsefx.lower(dense, example_inputs=(x,))
        whole = compiled(dense)
        times = interleaved(
            {"dense": partial(whole, x), "lowered": partial(fast, x)},
            x.device,
            options.rounds,
        )
        found = times["lowered"] / times["dense"]
        row = {
            "processor": platform.processor(),
            "torch": torch.__version__,
            "policy": policy,
            "asked": share,
            "found": round(found, 4),
            "off": round(found / share - 1, 4),
            "dense_ms": round(times["dense"], 3),
            "lowered_ms": round(times["lowered"], 3),
            "seconds_to_train": round(seconds, 1),
        }
        print(json.dumps(row))
        if options.out:
            append(options.out, row)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPARSEFX_CACHE"] = folder  # measured anew
        main()
