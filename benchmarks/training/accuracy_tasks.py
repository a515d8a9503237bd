"""The tasks of the accuracy benchmark: data, networks, recipes, scores."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.networks import Layer, ViT, resnet

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HINT = (
    "Fashion-MNIST is not here: apt-get install dataset-fashion-mnist, or give "
    "--data FOLDER with its four idx.gz files"
)
VALIDATION = 5000  # of the training images; choices are made on these


@dataclass(frozen=True)
class Scale:
    """How large a set of runs is."""

    steps: int
    batch: int
    width: int
    dim: int
    depth: int
    chars: int  # context of the language model


QUICK = {
    "resnet": Scale(steps=300, batch=32, width=8, dim=0, depth=0, chars=0),
    "vit": Scale(steps=800, batch=32, width=0, dim=48, depth=2, chars=0),
    "chars": Scale(steps=500, batch=32, width=0, dim=48, depth=2, chars=64),
}
LONGER = {name: replace(scale, steps=4 * scale.steps) for name, scale in QUICK.items()}
FULL = {
    "resnet": Scale(steps=9_000, batch=128, width=32, dim=0, depth=0, chars=0),
    "vit": Scale(steps=18_000, batch=128, width=0, dim=192, depth=6, chars=0),
    "chars": Scale(steps=12_000, batch=64, width=0, dim=192, depth=6, chars=256),
}
SCALES = {"quick": QUICK, "longer": LONGER, "full": FULL}


@dataclass(frozen=True)
class Task:
    """One network on one set of data.

    Attributes:
        make: the dense network.
        batches: endless training batches from a seed.
        evaluate: the score of a model on "validation" or "test".
        example: inputs for `sparsefx.transform`.
        score: what the score is called.
        higher: a higher score is better.
        optimizer: the recipe's optimizer at its peak learning rate.
        warm_up: share of the steps in which the learning rate rises.
        last_rate: share of the peak that its cosine falls to.
    """

    name: str
    make: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    evaluate: Callable[[nn.Module, str], float]
    example: tuple[Tensor, ...]
    score: str
    higher: bool
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    warm_up: float = 0.05
    last_rate: float = 0.0


def small_vit(dim: int, depth: int) -> nn.Module:
    """A vision transformer of 16 patches of 7 x 7 and a class token."""
    return ViT(dim, depth, channels=1, size=28, patch=7)


class CharLM(nn.Module):
    """A causal transformer on bytes."""

    def __init__(self, dim: int, depth: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, dim)
        self.place = nn.Parameter(0.02 * torch.randn(1, context, dim))
        self.layers = nn.Sequential(*(Layer(dim, 3, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.place)))


def adamw(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """AdamW, without decay of norms and biases."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        wide = [p for p in model.parameters() if p.ndim >= 2]
        rest = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": wide}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr, weight_decay=0.05)

    return make


def sgd(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """SGD with Nesterov momentum."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    return make


def fashion(folder: Path | None, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The three splits of Fashion-MNIST, normalised."""
    root = folder or DEBIAN
    files = {
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    }
    splits = {}
    for split, (images, labels) in files.items():
        if not (root / images).is_file():
            sys.exit(f"{HINT} (looked in {root})")
        pixels = bytearray(gzip.decompress((root / images).read_bytes())[16:])
        x = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 1, 28, 28).float()
        digits = bytearray(gzip.decompress((root / labels).read_bytes())[8:])
        y = torch.frombuffer(digits, dtype=torch.uint8).long()
        splits[split] = ((x / 255 - 0.286) / 0.353, y)
    x, y = splits.pop("train")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held, used = order[:VALIDATION], order[VALIDATION:]
    splits |= {"validation": (x[held], y[held]), "train": (x[used], y[used])}
    return {k: (a.to(device), b.to(device)) for k, (a, b) in splits.items()}


def vision(name: str, scale: Scale, folder: Path | None, device: str) -> Task:
    """A network on Fashion-MNIST."""
    data = fashion(folder, device)

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = data["train"]
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(y), generator=generator)
            for rows in order.split(scale.batch)[:-1]:
                flip = torch.rand(len(rows), generator=generator) < 0.5
                images = x[rows]
                flip_ = flip.to(device).view(-1, 1, 1, 1)
                yield torch.where(flip_, images.flip(-1), images), y[rows]

    @torch.no_grad()
    def evaluate(model: nn.Module, split: str) -> float:
        model.eval()
        x, y = data[split]
        pairs = zip(x.split(500), y.split(500), strict=True)
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in pairs)
        model.train()
        return 100 * right / len(y)

    nets: dict[str, Callable[[], nn.Module]] = {
        "resnet": lambda: resnet(scale.width, channels=1, stride=2),
        "vit": lambda: small_vit(scale.dim, scale.depth),
    }
    recipe = {"resnet": sgd(0.1), "vit": adamw(3e-3)}
    return Task(
        name=name,
        make=nets[name],
        batches=batches,
        evaluate=evaluate,
        example=(data["test"][0][:2],),
        score="test accuracy, %",
        higher=True,
        optimizer=recipe[name],
    )


def text() -> Tensor:
    """The standard library's source as ASCII codes, file after file by name."""
    root = Path(os.__file__).parent
    files = sorted(root.glob("*.py"), key=lambda path: path.name)
    joined = b"\n".join(path.read_bytes() for path in files)
    codes = torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()
    return codes[codes < 128]


def language(scale: Scale, device: str) -> Task:
    """A character model on the standard library's text."""
    codes = text().to(device)
    ends = [int(len(codes) * share) for share in (0.0, 0.9, 0.95, 1.0)]
    names = ("train", "validation", "test")
    data = {n: codes[a:b] for n, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
    window = torch.arange(scale.chars, device=device)

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        most = len(data["train"]) - scale.chars - 1
        while True:
            starts = torch.randint(most, (scale.batch, 1), generator=generator)
            rows = starts.to(device) + window
            yield data["train"][rows], data["train"][rows + 1]

    @torch.no_grad()
    def evaluate(model: nn.Module, split: str) -> float:
        model.eval()
        found = data[split][: 200_000 // scale.chars * scale.chars + 1]
        x, y = found[:-1].view(-1, scale.chars), found[1:].view(-1, scale.chars)
        total = 0.0
        for a, b in zip(x.split(100), y.split(100), strict=True):
            out = model(a).flatten(0, 1)
            total += float(F.cross_entropy(out, b.flatten(), reduction="sum"))
        model.train()
        return total / y.numel() / 0.6931471805599453

    return Task(
        name="chars",
        make=lambda: CharLM(scale.dim, scale.depth, scale.chars),
        batches=batches,
        evaluate=evaluate,
        example=(data["test"][: 2 * scale.chars].view(2, -1),),
        score="test bits a character",
        higher=False,
        optimizer=adamw(3e-3),
    )


def task_of(name: str, scale: Scale, folder: Path | None, device: str) -> Task:
    """A task by its name."""
    if name == "chars":
        return language(scale, device)
    return vision(name, scale, folder, device)
