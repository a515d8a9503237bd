"""Calls that run twice, and whether what they give is the same."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

Call = tuple[tuple[Any, ...], dict[str, Any]]


def seed() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - models draw from it


def same(a: list[Tensor], b: list[Tensor]) -> str:
    if len(a) != len(b):
        return "differs"
    worst = "bit"
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return "differs"
        if torch.equal(x, y) or torch.equal(x.nan_to_num(7.5), y.nan_to_num(7.5)):
            continue
        if not x.is_floating_point() and not x.is_complex():
            return "differs"
        scale = float(x.nan_to_num().abs().max()) or 1.0
        if not torch.allclose(x, y, rtol=1e-5, atol=1e-5 * scale, equal_nan=True):
            return "differs"
        worst = "close"
    return worst


def tensors(value: Any) -> list[Tensor]:
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        value = list(vars(value).values())
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def fresh(value: Any) -> Any:
    """Inputs that a model may write to."""
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def snapshot(model: nn.Module) -> list[Tensor]:
    return [v.detach().clone() for v in model.state_dict().values()]


def resized(call: Call) -> Call | None:
    """The call with one more row, where all tensors share their first size."""
    flat = tensors(call)
    sizes = {t.shape[0] for t in flat if t.ndim}
    if len(sizes) != 1 or next(iter(sizes)) < 2:
        return None

    def more(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        return torch.cat([value, value[:1]])

    return tree_map(more, call)


def attempt(run: Any, *args: Any) -> Any:
    try:
        return run(*args)
    except Exception:
        return None  # the original refuses this mode or size
