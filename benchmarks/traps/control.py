"""Python that decides: branches, loops, modes, random numbers, caches."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from traps.base import trap, x


def branch(m: Any, v: Tensor) -> Tensor:
    return m.a(v) if v.sum() > 0 else m.b(m.a(v))


def loop(m: Any, v: Tensor) -> Tensor:
    for _ in range(5):
        v = torch.tanh(m.a(v))
        if v.abs().mean() < 0.3:
            break
    return m.b(v)


def loop_to(m: Any, v: Tensor, count: int) -> Tensor:
    for _ in range(count):
        v = torch.tanh(m.a(v))
    return m.b(v)


def item(m: Any, v: Tensor) -> Tensor:
    return m.b(m.a(v) * v.abs().max().item())


def through_numpy(m: Any, v: Tensor) -> Tensor:
    shift = torch.from_numpy(np.tanh(v.detach().numpy()))
    return m.b(m.a(v) + shift)


def experts(m: Any, v: Tensor) -> Tensor:
    chosen = m.gate(v).argmax(-1)
    out = torch.zeros_like(v)
    for index, expert in enumerate(m.experts):
        rows = (chosen == index).nonzero()[:, 0]
        if rows.numel():
            out[rows] = expert(v[rows])
    return m.b(out)


def layer_drop(m: Any, v: Tensor) -> Tensor:
    if not m.training or random.random() < 2.0:
        v = m.a(v)
    return m.b(v)


def layer_drop_numpy(m: Any, v: Tensor) -> Tensor:
    if m.training and np.random.random() < -1.0:  # noqa: NPY002 - as models do it
        return m.b(v)
    return m.b(m.a(v))


def layer_drop_torch(m: Any, v: Tensor) -> Tensor:
    if not m.training or torch.rand([]) < 0.5:
        v = m.a(v)
    return m.b(v)


def auxiliary(m: Any, v: Tensor) -> Any:
    y = torch.tanh(m.a(v))
    return (m.b(y), m.aux(y)) if m.training else m.b(y)


def other_code(m: Any, v: Tensor) -> Tensor:
    if m.training:
        return m.b(m.a(v) * torch.rand_like(v))
    return torch.tanh(m.b(m.a(v)))


def constants(m: Any, v: Tensor) -> Tensor:
    scale, dim = (0.5, 1) if m.training else (2.0, -1)
    return m.b(m.a(v) * scale).softmax(dim)


class ShapeCache(nn.Module):
    """Keeps a table for every length it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.tables = nn.Linear(6, 6), {}

    def forward(self, v: Tensor) -> Tensor:
        key = v.shape[1]
        if key not in self.tables:
            self.tables[key] = torch.linspace(0, 1, key)[:, None]
        return self.a(v + self.tables[key])


class LazyTable(nn.Module):
    """Makes a tensor attribute at the first call and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = nn.Linear(6, 6), None

    def forward(self, v: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] < v.shape[1]:
            self.table = torch.linspace(0, 1, v.shape[1])[:, None]
        return self.a(v + self.table[: v.shape[1]])


class Cleared(nn.Module):
    """Keeps in eval what it computes of a parameter; any switch of mode forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.cache = nn.Linear(6, 6), {}
        self.table = nn.Parameter(torch.randn(9))
        self.register_buffer("index", torch.arange(6))

    def train(self, mode: bool = True) -> Any:
        self.cache = {}
        return super().train(mode)

    def shift(self) -> Tensor:
        if self.training:
            return self.table[self.index]
        if "cpu" not in self.cache:
            self.cache["cpu"] = self.table[self.index]
        return self.cache["cpu"]

    def forward(self, v: Tensor) -> Tensor:
        return self.a(v) + self.shift()


@functools.lru_cache
def table_of(length: int) -> Tensor:
    return torch.linspace(0, 1, length)


def cached_function(m: Any, v: Tensor) -> Tensor:
    return m.b(m.a(v) + table_of(v.shape[1]))


class LastLength(nn.Module):
    """Notes what it saw, every time anew."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.seen = nn.Linear(6, 6), 0

    def forward(self, v: Tensor) -> Tensor:
        self.seen = v.shape[1]
        return self.a(v) / self.seen


class BuiltLate(nn.Module):
    """Builds its layer at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.layer = nn.Linear(6, 6), None

    def forward(self, v: Tensor) -> Tensor:
        if self.layer is None:
            self.layer = nn.Linear(v.shape[-1], 6)
        return self.b(torch.tanh(self.layer(v)))


def built_late() -> Any:
    model, given = BuiltLate(), x()
    model(given)
    return model, (given,)


def lazy_linear() -> Any:
    model, given = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3)), x()
    model(given)
    return model, (given,)


def from_seed(m: Any, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return m.b(m.a(torch.randn(4, 6, generator=generator)))


def noise(m: Any, v: Tensor) -> Tensor:
    return m.b(m.a(v) + torch.randn(v.shape[0], 6))


def guarded(m: Any, v: Tensor) -> Tensor:
    return m.a(v) if v.shape[0] > 3 else m.b(v)


def vectorized(m: Any, v: Tensor) -> Tensor:
    return torch.vmap(lambda row: F.linear(row, m.a.weight, m.a.bias))(v)


def moe() -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(6, 6) for _ in range(3))


MODELS = {
    "branch_on_values": trap(branch),
    "loop_on_values": trap(loop),
    "loop_on_an_int": trap(loop_to, lambda: (x(), 3)),
    "item": trap(item),
    "numpy": trap(through_numpy),
    "experts_by_nonzero": trap(experts, gate=lambda: nn.Linear(6, 3), experts=moe),
    "layer_drop": trap(layer_drop),
    "layer_drop_numpy": trap(layer_drop_numpy),
    "layer_drop_torch": trap(layer_drop_torch),
    "auxiliary_output": trap(auxiliary, aux=lambda: nn.Linear(6, 2)),
    "other_code_by_mode": trap(other_code),
    "other_constants_by_mode": trap(constants),
    "cached_function": trap(cached_function),
    "shape_cache": lambda: (ShapeCache(), (x(4, 5, 6),)),
    "lazy_table": lambda: (LazyTable(), (x(4, 5, 6),)),
    "cache_cleared_by_mode": lambda: (Cleared(), (x(),)),
    "notes_what_it_saw": lambda: (LastLength(), (x(4, 5, 6),)),
    "layer_built_late": built_late,
    "lazy_linear": lazy_linear,
    "only_a_seed": trap(from_seed, lambda: (3,)),
    "noise": trap(noise),
    "guard_on_batch": trap(guarded),
    "vmap": trap(vectorized),
    "norm_without_momentum": trap(
        lambda m, v: m.b(m.norm(m.a(v))),
        norm=lambda: nn.BatchNorm1d(6, momentum=None),
    ),
}
