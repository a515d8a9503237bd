"""The frame of a trap: a module whose forward is a function of it and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 6)))


class Trap(nn.Module):
    """Two layers, ``a`` and ``b`` of width 6, and whatever parts are given."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        for name, part in parts.items():
            setattr(self, name, part)
        self.__dict__["run"] = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["run"](self, *args, **kwargs)


def only(module: nn.Module, *shape: int) -> tuple[nn.Module, Any]:
    """A module by itself and one input."""
    return module, (x(*shape),)


def trap(run: Callable[..., Any], inputs: Any = None, **parts: Any) -> Any:
    """A maker of ``(model, inputs)``; parts that are callable types are made anew."""

    def make() -> tuple[nn.Module, Any]:
        made = {k: v() if callable(v) else v for k, v in parts.items()}
        given = (x(),) if inputs is None else inputs()
        return Trap(run, **made), given

    return make
