"""The lowered model: a module for inference, with the report of how it came about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparsefx.lowering.inference_graph import Signature
from sparsefx.lowering.lowering_report import Lowering


class Lowered(nn.Module):
    """What `sparsefx.lower` returns; call it like the model.

    Attributes:
        module: the plain module underneath: a graph module, or a copy of the model
            where it is no single graph. Export this or the whole.
        report: what was chosen for each layer and why.
        compiled: whether calls go through ``torch.compile``.
        signature: how arguments become the graph's inputs; None for a copy.
    """

    def __init__(
        self,
        module: nn.Module,
        report: Lowering,
        signature: Signature | None,
        compiled: bool,
    ) -> None:
        """Wraps ``module``; nothing is compiled before the first call."""
        super().__init__()
        self.module = module
        self.report = report
        self.signature = signature
        self.compiled = compiled
        self.__dict__["_fast"] = None
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output; no gradients."""
        if self.signature is None:
            return self._run()(*args, **kwargs)
        tensors = self.signature.tensors(args, kwargs)
        return self.signature.result(self._run()(*tensors))

    def _run(self) -> Callable[..., Any]:
        traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if traced or not self.compiled:
            return self.module
        if self.__dict__["_fast"] is None:
            self.__dict__["_fast"] = compiled(self.module)
        fast: Callable[..., Any] = self.__dict__["_fast"]
        return fast

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**self.__dict__, "_fast": None}
        return state

    def __str__(self) -> str:
        return f"Lowered\n{self.report}"


def compiled(module: nn.Module) -> Callable[..., Any]:
    """``module`` under ``torch.compile`` without gradients, anew for each shape."""
    fast = torch.compile(module, dynamic=False)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return fast(*args, **kwargs)

    return call
