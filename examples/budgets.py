"""One network under four budgets: how differently they keep its layers.

    python examples/budgets.py              # a minute; writes budgets.svg
    python examples/budgets.py --steps 20   # a quick look

A small convolutional network on scikit-learn's digits is trained to a tenth of its
parameters, a tenth of its MACs, two thirds of its latency here, and to MACs and bytes
together. The convolution is used at 64 places: its weights are dear in MACs and cheap
in parameters. Latency asks which layers are faster when sparse, on this machine: the
others stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sparsefx

BUDGETS = {
    "params": {"params": 0.1},
    "macs": {"macs": 0.1},
    "latency": {"latency_ms": 0.67},
    "macs + bytes": {"macs": 0.1, "bytes": "500 kB"},
}
COLOURS = ("#3b7dd8", "#d8783b", "#3ba55c", "#8a4fd8")


class Net(nn.Module):
    """A convolution, and linear layers that take most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.wide = nn.Linear(16 * 64, 1024)
        self.deep = nn.Linear(1024, 512)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(F.relu(self.conv(x)).flatten(1)))
        return self.head(F.relu(self.deep(x)))


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> sparsefx.StepReport:
    """Trains for some steps; the report of the last one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,), generator=generator)
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(model)
    return info


def svg(rows: dict[str, dict[str, float]]) -> str:
    """Densities as bars, a group for each layer."""
    layers = list(next(iter(rows.values())))
    width, lines = 190, []
    for i, layer in enumerate(layers):
        left = 30 + i * width
        lines.append(
            f'<text x="{left + 70}" y="244" text-anchor="middle">{layer}</text>'
        )
        for j, (colour, kept) in enumerate(zip(COLOURS, rows.values(), strict=True)):
            tall, x = 190 * kept[layer], left + 36 * j
            lines += [
                f'<rect x="{x}" y="{226 - tall:.1f}" width="30" height="{tall:.1f}" '
                f'fill="{colour}"/>',
                f'<text x="{x + 15}" y="{221 - tall:.1f}" text-anchor="middle" '
                f'font-size="10">{100 * kept[layer]:.0f} %</text>',
            ]
    for j, (colour, name) in enumerate(zip(COLOURS, rows, strict=True)):
        lines.append(f'<text x="{30 + 190 * j}" y="18" fill="{colour}">{name}</text>')
    size = 40 + width * len(layers)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} 256" '
        'font-family="sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="white"/>' + "".join(lines) + "</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="one network, four budgets")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("budgets.svg"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    rows: dict[str, dict[str, float]] = {}
    for name, budget in BUDGETS.items():
        torch.manual_seed(0)
        model = Net()
        sparse = sparsefx.transform(
            model,
            budget=budget,
            example_inputs=(x[:64],),
            total_steps=options.steps,
        )
        info = train(sparse, x[:1500], y[:1500], options.steps)
        with torch.no_grad():
            right = (sparse.eval()(x[1500:]).argmax(1) == y[1500:]).float().mean()
        rows[name] = {n.removesuffix(".weight"): d for n, d in info.densities.items()}
        spent = ", ".join(
            f"{cost} {hard:.5g} of {limit:.5g}"
            for cost, (limit, _, hard) in info.budgets.items()
        )
        print(f"{name:13} accuracy {100 * right:.1f} %, {spent}")
    width = max(map(len, next(iter(rows.values()))))
    print("\n" + " " * width, *(f"{name:>13}" for name in rows))
    for layer in next(iter(rows.values())):
        cells = (f"{100 * kept[layer]:11.1f} %" for kept in rows.values())
        print(f"{layer:<{width}}", *cells)
    options.out.write_text(svg(rows), encoding="utf-8")
    print(f"\nwrote {options.out}")


if __name__ == "__main__":
    main()
