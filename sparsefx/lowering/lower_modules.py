"""Lowering without a graph: layers are replaced in a copy of the module tree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.lowering.dense_layer import of_module
from sparsefx.lowering.layer_trial import Trial, try_layer
from sparsefx.masking.masked_module import duplicate
from sparsefx.tracing.example_calls import Call


def lower_modules(
    model: nn.Module, call: Call, target: str, rounds: int, *, fused: bool = False
) -> tuple[nn.Module, list[Trial]]:
    """A copy of ``model`` whose layers took their fastest forms.

    Each layer is tried on the input of its first call.

    Args:
        model: a module in eval mode; it is not changed.
        call: example arguments.
        target: ``auto`` or the form to force.
        rounds: samples of each timing.
        fused: as for `try_layer`.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4))
        >>> _ = net[0].weight.data.triu_()
        >>> copied, trials = lower_modules(net, ((torch.ones(1, 4),), {}), "csr", 1)
        >>> type(copied[0]).__name__, trials[0].chosen
        ('CompressedLayer', 'csr')
    """
    twin = duplicate(model).eval()
    seen: dict[str, Tensor] = {}
    layers = {
        path: layer
        for path, module in twin.named_modules()
        if path
        and not (module._forward_hooks or module._forward_pre_hooks)
        and (layer := of_module(path, module)) is not None
    }
    handles = [
        twin.get_submodule(path).register_forward_pre_hook(_noting(seen, path))
        for path in layers
    ]
    with torch.no_grad():
        try:
            twin(*call[0], **call[1])
        finally:
            for handle in handles:
                handle.remove()
        trials = []
        for path, layer in layers.items():
            if path not in seen:
                continue
            trial = try_layer(layer, seen[path], target, rounds, fused=fused)
            trials.append(trial)
            if trial.module is not None:
                twin.set_submodule(path, trial.module)
    return twin, trials


def _noting(seen: dict[str, Tensor], path: str) -> Any:
    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            seen.setdefault(path, args[0].detach())

    return note
