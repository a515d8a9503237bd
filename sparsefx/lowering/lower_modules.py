"""Lowering of the module tree: its layers are tried and replaced where they stand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.lowering.dense_layer import Dense, of_module
from sparsefx.lowering.layer_forms import CutLayer, NoCandidateError
from sparsefx.lowering.layer_trial import Asked, Trial, try_layer
from sparsefx.reports.progress import progress
from sparsefx.tracing.example_calls import Call

LARGEST = 0.75  # of a layer's weights: indexing what is left of more costs too much


def search_modules(model: nn.Module, call: Call, asked: Asked) -> list[Trial]:
    """The trials of all layers that are modules, each on the input of its first call.

    Args:
        model: a module in eval mode; it is not changed.
        call: example arguments.
        asked: what the layers may become.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4))
        >>> _ = net[0].weight.data.triu_()
        >>> trials = search_modules(net, ((torch.ones(1, 4),), {}), Asked("csr", 1))
        >>> trials[0].chosen, with_layers(net, trials)[0] is trials[0].module
        ('csr', True)
    """
    seen: dict[str, Tensor] = {}
    layers = layers_of(model)
    handles = [
        model.get_submodule(path).register_forward_pre_hook(_noting(seen, path))
        for path in layers
    ]
    with torch.no_grad():
        try:
            model(*call[0], **call[1])
        finally:
            for handle in handles:
                handle.remove()
        trials = []
        with progress("lower", len(seen)) as begin:
            for path, layer in layers.items():
                if path in seen:
                    begin(path)
                    trials.append(try_layer(layer, seen[path], *asked))
        return trials


def with_layers(
    model: nn.Module, trials: Iterable[Trial], cut: Collection[str] = ()
) -> nn.Module:
    """The model with what its layers became, on the tensors of all that stayed.

    Args:
        model: it is not changed, and shares its tensors.
        trials: what became of its layers.
        cut: names of weights that a graph has lost units of. Here such a layer leaves
            out its own zero rows and columns, if they are many.
    """
    twin = sharing(model).eval()
    layers = {layer.name: (path, layer) for path, layer in layers_of(twin).items()}
    for trial in trials:
        path, layer = layers.get(trial.name, ("", None))
        if layer is None:
            continue
        module = trial.module
        if trial.name in cut:
            module = _cut(layer)
        if module is not None:
            twin.set_submodule(path, module)
    return twin


def layers_of(model: nn.Module) -> dict[str, Dense]:
    """The layers below a model whose modules may be replaced, by path."""
    return {
        path: layer
        for path, module in model.named_modules()
        if path
        and not (module._forward_hooks or module._forward_pre_hooks)
        and (layer := of_module(path, module)) is not None
    }


def sharing(root: nn.Module) -> nn.Module:
    """A copy of the module tree on the same memory, for inference."""
    memo: dict[int, Any] = {}
    for module in root.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor):
                memo[id(value)] = value.detach()
        for value in module._buffers.values():
            if value is not None:
                memo[id(value)] = value.detach()
        for value in module._parameters.values():
            if value is not None:
                memo[id(value)] = nn.Parameter(value.detach(), requires_grad=False)
    return copy.deepcopy(root, memo)


def _cut(layer: Dense) -> nn.Module | None:
    with contextlib.suppress(NoCandidateError):
        made = CutLayer(layer)
        if made.weight.numel() <= LARGEST * layer.weight.numel():
            return made
    return None


def _noting(seen: dict[str, Tensor], path: str) -> Any:
    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            seen.setdefault(path, args[0].detach())

    return note
