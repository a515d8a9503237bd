"""What goes in and comes out: containers, keywords, options, integers."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import torch
from torch import Tensor

from traps.base import trap, x

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None


def keywords(m: Any, v: Tensor, *rest: Tensor, scale: float = 1.0, **more: Any) -> Any:
    y = m.a(v)
    for other in rest:
        y = y + other
    if more.get("mask") is not None:
        y = y * more["mask"]
    return m.b(y) * scale


def from_list(m: Any, parts: list[Tensor]) -> list[Tensor]:
    return [m.a(part) for part in parts] + [m.b(parts[0])]


def from_dict(m: Any, parts: dict[str, Tensor]) -> dict[str, Any]:
    return {"a": m.a(parts["x"]), "rest": [m.b(parts["y"]), None, "text", 3]}


def by_row(m: Any, v: Tensor) -> Tensor:
    return torch.stack([m.a(row) for row in v])


def table(m: Any, index: Tensor) -> Tensor:
    return m.b(m.embed(index).mean(1))


MODELS = {
    "args_and_kwargs": lambda: (
        trap(keywords)()[0],
        {"v": x(), "scale": 2.0, "mask": x()},
    ),
    "optional_is_none": lambda: (
        trap(keywords)()[0],
        {"v": x(), "mask": None, "unused": None},
    ),
    "several_positional": trap(keywords, lambda: (x(), x(), x())),
    "list_of_tensors": trap(from_list, lambda: ([x(), x(3, 6)],)),
    "dict_of_tensors": trap(from_dict, lambda: ({"x": x(), "y": x()},)),
    "dataclass_output": trap(lambda m, v: Answer(m.b(m.a(v)))),
    "namedtuple_output": trap(lambda m, v: Pair(m.a(v), m.b(v))),
    "ordered_dict_output": trap(lambda m, v: OrderedDict(a=m.a(v), b=m.b(v))),
    "rows_of_the_batch": trap(by_row),
    "integers": trap(
        table,
        lambda: (torch.arange(12).reshape(4, 3) % 10,),
        embed=lambda: torch.nn.Embedding(10, 6),
    ),
    "booleans": trap(
        lambda m, v, keep: m.b(torch.where(keep, m.a(v), v)),
        lambda: (x(), torch.arange(24).reshape(4, 6) % 2 == 0),
    ),
    "scalar_tensor": trap(
        lambda m, v, scale: m.b(m.a(v) * scale), lambda: (x(), torch.tensor(0.5))
    ),
    "complex_values": trap(
        lambda m, v: m.b(torch.fft.irfft(torch.fft.rfft(m.a(v)) * 1j, n=6))
    ),
    "returns_its_input": trap(lambda m, v: (v, m.b(m.a(v)))),
    "splat_of_a_shape": trap(
        lambda m, v: m.b(m.a(v).reshape(*v.shape[:-1], 2, 3).flatten(-2)),
        lambda: (x(4, 3, 6),),
    ),
    "batch_arithmetic": trap(
        lambda m, v: m.a(v).repeat(2, 1)[: v.shape[0] + 1] * (v.shape[0] // 2)
    ),
    "batch_of_one": trap(lambda m, v: m.b(m.a(v)), lambda: (x(1, 6),)),
}
