"""What a sparse step costs, in dense steps: one number, for a glance in CI.

    python benchmarks/step_ratio.py

`train_step.py` has the whole picture.
"""

import argparse
from collections.abc import Callable

import torch
from shared.measure import rounds
from torch import nn
from training.networks import ViT

import sparsefx

BATCH = 8


def stepper(model: nn.Module, x: torch.Tensor, sparse: bool) -> Callable[[], object]:
    """One training step, dense or sparse, as a function."""
    if sparse:
        model = sparsefx.transform(model, example_inputs=(x,), total_steps=None)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if sparse:
            sparsefx.step(model)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description="a sparse step, in dense steps")
    parser.add_argument("--rounds", type=int, default=10)
    count = parser.parse_args().rounds
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32)
    steps = {kind: stepper(ViT(), x, kind == "sparse") for kind in ("dense", "sparse")}
    for step in steps.values():
        step()
    times = rounds(steps, count)
    dense, sparse = (times[kind]["cpu_ms"] for kind in ("dense", "sparse"))
    print(f"a dense step   {dense:8.1f} ms of CPU")
    print(f"a sparse step  {sparse:8.1f} ms of CPU")
    print(f"ratio          {sparse / dense:8.2f}  (medians of {count} rounds, in turn)")


if __name__ == "__main__":
    main()
