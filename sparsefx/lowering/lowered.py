"""The lowered model: a module for inference, with the report of how it came about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from sparsefx.lowering.inference_graph import Signature
from sparsefx.lowering.lowering_report import Lowering


class Lowered(nn.Module):
    """What `sparsefx.lower` returns; call it like the model.

    Attributes:
        module: the model's own Python with the chosen layers: takes every call.
        report: what was chosen for each layer and why.
        compiled: whether calls go through ``torch.compile``.
        plan: the graph for calls of the example's sizes, any batch; None where the
            model is no single graph. Its layers are those of ``module``.
        signature: how arguments become the graph's inputs.
    """

    def __init__(
        self,
        module: nn.Module,
        report: Lowering,
        compiled: bool,
        planned: tuple[fx.GraphModule, Signature] | None = None,
    ) -> None:
        """Wraps ``module``; nothing is compiled before the first call."""
        super().__init__()
        self.module = module
        self.report = report
        self.compiled = compiled
        self.plan: fx.GraphModule | None = None
        self.signature: Signature | None = None
        if planned is not None:
            self.plan, self.signature = planned
        self.__dict__["_fast"] = {}
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output; no gradients."""
        if self.plan is not None and self.signature is not None:
            tensors = self.signature.tensors(args, kwargs)
            if tensors is not None:
                return self.signature.result(self._run(self.plan)(*tensors))
        return self._run(self.module)(*args, **kwargs)

    def _run(self, module: nn.Module) -> Callable[..., Any]:
        traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if traced or not self.compiled:
            return module
        fast: dict[bool, Callable[..., Any]] = self.__dict__["_fast"]
        key = module is self.plan
        if key not in fast:
            fast[key] = compiled(module)
        return fast[key]

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**self.__dict__, "_fast": {}}
        return state

    def __str__(self) -> str:
        return f"Lowered\n{self.report}"

    def _repr_html_(self) -> str:
        """For a notebook's cell."""
        return self.report._repr_html_()


def compiled(module: nn.Module) -> Callable[..., Any]:
    """``module`` under ``torch.compile`` without gradients, anew for each shape."""
    fast = torch.compile(module, dynamic=False)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return fast(*args, **kwargs)

    return call
