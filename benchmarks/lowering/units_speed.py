"""How much faster a Vision Transformer is at half of its MACs: interleaved medians.

Half of the heads and as many neurons as the budget allows are cut at random, which
takes as long as a trained choice. From the repository's root:

    python benchmarks/lowering/units_speed.py --batch 1 16 --compile
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from shared.result_lines import append
from torch import Tensor, nn

import sparsefx
from sparsefx.passes import ShrinkUnits, find_units

EXAMPLE = Path(__file__).parents[2] / "examples" / "vit_small.py"


def model_of(heads: int, depth: int) -> nn.Module:
    spec = importlib.util.spec_from_file_location("vit_small", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    model: nn.Module = example.Vit(heads, depth)
    return model.eval()


def cut(model: nn.Module, budget: float, round_to: int) -> tuple[nn.Module, float]:
    """The model at a share of its MACs, half of the heads gone; and that share."""
    x = torch.zeros(1, 3, 224, 224)
    found = sparsefx.capture(model, (x,), verify=False)
    dense = sparsefx.costs(model, (x,)).totals()["macs"]["total"]
    graph = found.graphs[""]
    units = find_units(graph)
    heads = [g for g in units.groups.values() if g.kind == "heads"]
    neurons = [g for g in units.groups.values() if g.kind == "neurons"]
    keep = {g.name: list(range(g.size // 2)) for g in heads}
    spare = (1 - budget) * dense - sum(g.macs * (g.size - g.size // 2) for g in heads)
    each = sum(g.macs for g in neurons)
    count = int(neurons[0].size - spare / each) // round_to * round_to
    keep |= {g.name: list(range(count)) for g in neurons}
    small = ShrinkUnits(keep, units=units)(graph).eval()
    left = sparsefx.costs(small, (x,)).totals()["macs"]["total"]
    return small, left / dense


def medians(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """One call of each in turn, so that both meet the same noise."""
    spent: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for number in range(rounds + 2):
            for name, model in models.items():
                if x.is_cuda:
                    torch.cuda.synchronize()
                start = time.perf_counter()
                model(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if number >= 2:
                    spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="gets a line a run")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = model_of(options.heads, options.depth)
    small, share = cut(model, options.budget, options.round_to)
    dtype = getattr(torch, options.dtype)
    models = {"dense": model, "cut": small}
    models = {n: m.to(options.device, dtype) for n, m in models.items()}
    if options.compile:
        models = {n: torch.compile(m, fullgraph=True) for n, m in models.items()}
    for batch in options.batch:
        x = torch.randn(batch, 3, 224, 224).to(options.device, dtype)
        found = medians(models, x, options.rounds)
        ratio = found["dense"] / found["cut"]
        row = {"batch": batch, "macs": share, **found, "faster": ratio}
        row |= {"compiled": options.compile, "device": options.device}
        print(json.dumps(row), flush=True)
        if options.out:
            append(options.out, row)


if __name__ == "__main__":
    main()
