"""The demo: two small networks on real data, trained to a tenth of their MACs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import sparsefx
from sparsefx.errors import SparsefxError
from sparsefx.reports.report import Report
from sparsefx.reports.text_table import percent, text_table

BUDGET = 0.1  # of the dense MACs
BATCH = 64


class ConvNet(nn.Module):
    """Three convolutions with batch norm, and a linear head; for 1x8x8 images."""

    def __init__(self, width: int = 32) -> None:
        """``width``: channels of the first convolution, half those of the others."""
        super().__init__()
        self.stem = self.block(1, width, stride=1)
        self.down = self.block(width, 2 * width, stride=2)
        self.body = self.block(2 * width, 2 * width, stride=1)
        self.head = nn.Linear(2 * width, 10)

    @staticmethod
    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        """Convolution, batch norm, ReLU."""
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 1, 8, 8) to logits of shape (batch, 10)."""
        x = self.body(self.down(self.stem(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        """``dim``: features of a token, shared out to ``heads``."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of shape (batch, tokens, dim) to tokens of the same shape."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        tokens: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return tokens


class VisionTransformer(nn.Module):
    """A small vision transformer on patches of 2x2; for 1x8x8 images."""

    def __init__(self, dim: int = 64, depth: int = 3, heads: int = 4) -> None:
        """``dim``: features of a token; ``depth``: number of blocks."""
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(0.5 * torch.randn(1, 17, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 1, 8, 8) to logits of shape (batch, 10)."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        cls = self.cls.expand(x.shape[0], -1, -1)
        tokens = self.blocks(torch.cat([cls, patches], 1) + self.position)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


@dataclass(frozen=True, slots=True)
class Recipe:
    """A network, how fast it learns, dense and sparse alike."""

    name: str
    build: Callable[[], nn.Module]
    learning_rate: float


RECIPES = (
    Recipe("conv", ConvNet, 5e-3),
    Recipe("vit", VisionTransformer, 3e-3),
)


@dataclass(frozen=True, slots=True)
class Split:
    """Images of shape (n, 1, 8, 8) in [-1, 1] and labels of shape (n,)."""

    images: Tensor
    labels: Tensor

    @property
    def steps(self) -> int:
        """Whole batches an epoch."""
        return len(self.labels) // BATCH

    def batches(
        self, epochs: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of one size."""
        for _ in range(epochs):
            order = torch.randperm(len(self.labels), generator=generator)
            # A last batch of three images would spoil the batch norms.
            for chosen in order[: self.steps * BATCH].view(-1, BATCH):
                yield self.images[chosen], self.labels[chosen]

    def accuracy(self, model: nn.Module) -> float:
        """Share of the labels that the model gets right."""
        model.eval()
        with torch.no_grad():
            right = model(self.images).argmax(1) == self.labels
        return float(right.float().mean())


def digits() -> tuple[Split, Split]:
    """The handwritten digits of scikit-learn: 1347 to train, 450 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    parts = train_test_split(
        torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1,
        torch.tensor(data.target),
        test_size=0.25,
        stratify=data.target,
        random_state=0,
    )
    train_images, test_images, train_labels, test_labels = parts
    return Split(train_images, train_labels), Split(test_images, test_labels)


def train(
    model: nn.Module, recipe: Recipe, data: Split, epochs: int, seed: int, title: str
) -> None:
    """Trains in place; a module made by `sparsefx.transform` is stepped too."""
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    total = epochs * data.steps
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=total, pct_start=0.1
    )
    is_sparse = hasattr(model, "_sparsefx")
    model.train()
    bar = tqdm(data.batches(epochs, generator), title, total, mininterval=0.5)
    for images, labels in bar:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        shown = {"loss": f"{loss.item():.3f}"}
        if is_sparse:
            info = sparsefx.step(model)
            shown["MACs"] = f"{info.hard_cost:,.0f}"
        bar.set_postfix(shown, refresh=False)


def excerpt(graph: fx.GraphModule, weight: str) -> str:
    """The lines of a graph's code around one weight, down to what uses it."""
    (found,) = (node for node in graph.graph.nodes if node.target == weight)
    used, wanted = found, {found}
    while used is found or "masked_weight" in str(used.target):
        (used,) = used.users
        wanted |= {used, *used.all_input_nodes}
    starts = tuple(f"{node.name} = " for node in wanted)
    lines = [line.strip() for line in graph.code.splitlines()]
    return "\n".join(
        f"    {line.partition(';')[0]}" for line in lines if line.startswith(starts)
    )


def check_budget(name: str, report: Report) -> None:
    """Refuses masks above the budget, or more than one weight below it."""
    total, budget = report.totals["macs"], report.budgets["macs"]
    weights = ((layer.costs["macs"].dense, layer.shape) for layer in report.layers)
    dearest = max(dense / math.prod(shape) for dense, shape in weights)
    if not (budget.met and total.kept <= BUDGET * total.dense):
        raise SparsefxError(
            f"{name}: {total.kept:,.0f} MACs are kept, above {BUDGET:.0%} of "
            f"{total.dense:,.0f}; the masks broke their promise, please report it"
        )
    if budget.limit - budget.kept >= dearest:
        raise SparsefxError(
            f"{name}: {budget.limit - budget.kept:,.0f} MACs are left over, enough for "
            f"one more weight at {dearest:,.0f}; please report it"
        )


def compare(recipe: Recipe, seed: int, epochs: int, out: Path) -> tuple[float, float]:
    """Trains one network dense and sparse.

    Returns:
        Test accuracy of the dense network and of the finalised sparse one.
    """
    data, test = digits()
    example = data.images[:2]
    torch.manual_seed(seed)
    dense = recipe.build()
    torch.manual_seed(seed)
    model = recipe.build()
    before = sparsefx.capture(model, (example,)).graphs[""]
    sparse = sparsefx.transform(
        model,
        policy="cost_budget",
        budget=BUDGET,
        example_inputs=(example,),
        total_steps=epochs * data.steps,
    )
    if seed == 0:
        print(f"\n{recipe.name}: the head before and after sparsefx.transform\n")
        print(excerpt(before, "head.weight"), "\n", sep="")
        print(excerpt(sparsefx.graphs(sparse)[""], "head.weight"), "\n", sep="")
    train(dense, recipe, data, epochs, seed, f"{recipe.name} dense ")
    train(sparse, recipe, data, epochs, seed, f"{recipe.name} sparse")
    report = sparsefx.report(sparse)
    check_budget(recipe.name, report)
    if seed == 0:
        print(f"\n{report}\n")
        report.to_html(out / f"{recipe.name}_report.html")
        report.to_svg(out / f"{recipe.name}_report.svg")
        report.to_json(out / f"{recipe.name}_report.json")
        for suffix in ("svg", "html"):
            sparsefx.draw(sparse, out / f"{recipe.name}_graph.{suffix}")
    return test.accuracy(dense), test.accuracy(sparsefx.finalize(sparse))


def run(out: Path, seeds: int = 1, epochs: int = 20) -> None:
    """Trains every network, prints what happened, writes pages and pictures.

    Args:
        out: the folder to write to.
        seeds: how often each network is trained, at least 1.
        epochs: passes over the 1347 training images, at least 1.

    Raises:
        SparsefxError: scikit-learn or tqdm is missing, or a budget is not kept.
    """
    if min(seeds, epochs) < 1:
        raise SparsefxError(f"seeds {seeds} and epochs {epochs} must be at least 1")
    missing = [name for name in ("sklearn", "tqdm") if find_spec(name) is None]
    if missing:
        raise SparsefxError(
            f"the demo needs {' and '.join(missing)}; install them with: "
            'pip install "sparsefx[examples]"'
        )
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    rows = []
    for recipe in RECIPES:
        for seed in range(seeds):
            dense, sparse = compare(recipe, seed, epochs, out)
            points = f"{100 * (sparse - dense):+.2f}"
            rows.append(
                (recipe.name, str(seed), percent(dense, 2), percent(sparse, 2), points)
            )
    header = ("model", "seed", "dense accuracy", f"sparse, {BUDGET:.0%} MACs", "points")
    print(f"\n{text_table(header, rows, right=(1, 2, 3, 4))}\n")
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s; reports and graphs are in {out}{os.sep}")
