"""Sparse-IFT: more weights to choose from, at the cost of the dense network.

    pip install "sparsefx[examples]"
    python examples/sparse_ift.py
    python examples/sparse_ift.py --member sparse_parallel --density 0.1

A small residual net on scikit-learn's 8 x 8 digits. Dense net and rewrite train alike;
the rewrite's masked weights cost exactly the dense multiply-accumulates, whatever
the density, and its masks move by RigL. At the end: accuracy, cost, and how well the
masks connect their layers, from the first step to the last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sparsefx

MEMBERS = ("sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped")


class Block(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + y)


def network(width: int = 8) -> nn.Module:
    """Stem, two blocks, head."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width),
        nn.MaxPool2d(2),
        Block(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits in random order: the first 1400 to train, the rest to test."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    labels = torch.tensor(y)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def train(
    model: nn.Module, steps: int, history: sparsefx.SpectralHistory | None
) -> float:
    """Trains with SGD; returns the test accuracy in percent."""
    x, y, test_x, test_y = data()
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        if history is not None and step % max(steps // 8, 1) == 0:
            history.record(model, step)
        rows = torch.randint(len(y), (64,), generator=draw)
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
        if history is not None:
            sparsefx.step(model, optimizer)
    final = model if history is None else sparsefx.finalize(model)
    final.eval()
    with torch.no_grad():
        return 100 * float((final(test_x).argmax(1) == test_y).float().mean())


def main() -> None:
    """Trains both and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--member", choices=MEMBERS, default="sparse_wide")
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--picture", type=Path, help="an SVG of the masks' spectra")
    given = parser.parse_args()

    torch.manual_seed(0)
    dense_accuracy = train(network(), given.steps, None)

    torch.manual_seed(0)
    sparse = sparsefx.transform(
        network(),
        given.member,
        density=given.density,
        example_inputs=(torch.zeros(2, 1, 8, 8),),
        total_steps=given.steps,
        update_every=max(given.steps // 20, 1),
    )
    history = sparsefx.SpectralHistory()
    sparse_accuracy = train(sparse, given.steps, history)

    report = sparsefx.report(sparse)
    print(report, "\n")
    totals = report.to_dict()["totals"]
    macs, params = totals["macs"], totals["params"]
    print(f"dense:  {dense_accuracy:.1f} %, {macs['original']:,.0f} MACs")
    print(
        f"{given.member}: {sparse_accuracy:.1f} %, {macs['kept']:,.0f} MACs of "
        f"{params['kept']:,.0f} weights among {params['dense']:,.0f}"
    )
    first, last = history.reports[0][1], history.reports[-1][1]
    print(f"\nmasks at the start:\n{first}\n\nmasks at the end:\n{last}")
    if given.picture is not None:
        history.to_svg(given.picture)


if __name__ == "__main__":
    main()
