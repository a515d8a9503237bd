"""What a step of training on kept weights alone costs, beside the dense step.

    python benchmarks/sparse_training.py              # default AdamW on both sides
    python benchmarks/sparse_training.py --fused      # the fused one on both sides

RigL's masks stand between updates: forward, loss, backward, AdamW and `sparsefx.step`
on the same batch, in turn in one process, of the dense model, of masked training and of
`execution="sparse"`. What is stored (weights, gradients, moments, masks, indices) is
counted too.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from shared.measure import rounds, save
from torch import Tensor, nn
from training.networks import ViT

import sparsefx

Step = Callable[[], object]


def mlp() -> tuple[nn.Module, Tensor, int]:
    """Eight hidden layers of 1024."""
    sizes = [784, *[1024] * 9]
    layers = [m for pair in pairwise(sizes) for m in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10)), torch.randn(512, 784), 10


def vit() -> tuple[nn.Module, Tensor, int]:
    """The width of ViT-S/16, four blocks."""
    model = ViT(384, 4, 6, size=224, patch=16)
    return model, torch.randn(8, 3, 224, 224), 10


MODELS = {"MLP 8x1024": mlp, "ViT-S, 4 blocks": vit}


def stepper(name: str, density: float | None, execution: str, fused: bool) -> Step:
    """A training step; its attribute ``stored`` counts bytes after two of them."""
    torch.manual_seed(0)
    model, x, classes = MODELS[name]()
    y = torch.arange(len(x)) % classes
    if density is not None:
        model = sparsefx.transform(
            model,
            "rigl",
            example_inputs=(x,),
            cost="params",
            budget=density,
            total_steps=100_000,
            execution=execution,
        )
    options = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, **options)

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if density is not None:
            sparsefx.step(model, optimizer)
        step.stored = sum(t.nbytes for t in held(model, optimizer))  # type: ignore[attr-defined]
        optimizer.zero_grad()

    return step


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Weights, gradients, moments, masks and the layouts of kept entries."""
    for parameter in model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
        state = optimizer.state.get(parameter, {})
        yield from (v for v in state.values() if isinstance(v, Tensor))
    for module in model.modules():
        if hasattr(module, "held"):
            yield from module.held().values()
        compact = getattr(module, "compact", None)
        for index in () if compact is None else compact.sites:
            for packed in compact.layout_of(index):
                yield from (part for part in packed if part is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description="training on kept weights alone")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.1, 0.05])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.models:
        make = partial(stepper, name, fused=options.fused)
        calls = {"dense": make(None, "masked")}
        for density in options.densities:
            for execution in ("masked", "sparse"):
                calls[f"{execution} {density:g}"] = make(density, execution)
        for call in calls.values():
            call()
            call()
        times = rounds(calls, options.rounds)
        stored = {kind: call.stored for kind, call in calls.items()}  # type: ignore[attr-defined]
        dense = times["dense"]["cpu_ms"]
        print(f"{name}, AdamW{' fused' * options.fused}:", flush=True)
        for kind, row in times.items():
            ratios = row["cpu_ms"] / dense, stored[kind] / stored["dense"]
            print(
                f"  {kind:12} {row['cpu_ms']:8.1f} ms CPU, x {ratios[0]:.3f}; stored x "
                f"{ratios[1]:.3f}",
                flush=True,
            )
        if not options.no_save:
            head = {"model": name, "fused": options.fused}
            save("sparse_training", {**head, "times": times, "stored": stored})


if __name__ == "__main__":
    main()
