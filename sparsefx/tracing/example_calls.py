"""Example inputs as calls, and with what a model calls its submodules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import CaptureError
from sparsefx.torch_internals import tree_flatten, tree_unflatten

Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_calls(example_inputs: Any) -> list[Call]:
    """Example inputs as calls; a list of tuples and dicts is one call each.

    Example:
        >>> as_calls([(1,), {"x": 1, "labels": 2}])
        [((1,), {}), ((), {'x': 1, 'labels': 2})]
        >>> as_calls((1, 2))
        [((1, 2), {})]
    """
    if isinstance(example_inputs, list) and example_inputs:
        if all(isinstance(item, (tuple, Mapping)) for item in example_inputs):
            return [as_call(item) for item in example_inputs]
    return [as_call(example_inputs)]


def as_call(example_inputs: Any) -> Call:
    """Example inputs as ``(args, kwargs)``."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    raise CaptureError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tuple of "
        "positional inputs, such as (x,), or a dict of keyword inputs"
    )


def observe(model: nn.Module, call: Call) -> dict[str, Call]:
    """Runs the model once and notes the first call of every submodule."""
    seen: dict[str, Call] = {}
    handles = []
    for path, module in model.named_modules():
        if path or module._forward_pre_hooks:

            def note(_: Any, args: Any, kwargs: Any, path: str = path) -> None:
                seen.setdefault(path, _detached(args, kwargs))

            # after the module's own such hooks: a graph gets what they return
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        for training in (True, False):  # lazily built caches exist after this
            model.train(training)
            with torch.no_grad():
                try:
                    model(*call[0], **call[1])
                except Exception as error:
                    if not training:
                        raise CaptureError(_unusable(model, call, error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return {"": call} | seen


def _unusable(model: nn.Module, call: Call, error: Exception) -> str:
    shapes = [tuple(t.shape) for t in tree_flatten(call)[0] if isinstance(t, Tensor)]
    text = str(error).strip().splitlines() or [""]
    return (
        f"{type(model).__name__} does not run on the example inputs (shapes "
        f"{shapes}): {type(error).__name__}: {text[0][:300]}; give example_inputs "
        "that the model accepts, as a tuple of positional or a dict of keyword inputs"
    )


def _detached(args: Any, kwargs: Any) -> Call:
    leaves, spec = tree_flatten((args, kwargs))
    flat = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    out_args, out_kwargs = tree_unflatten(flat, spec)
    return tuple(out_args), dict(out_kwargs)


def doubled(call: Call) -> Call:
    """The call at batch 2 if it was at batch 1: a size of 1 cannot be a symbol."""
    leaves, spec = tree_flatten(call)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return call
    flat = [
        leaf.repeat_interleave(2, 0) if isinstance(leaf, Tensor) and leaf.ndim else leaf
        for leaf in leaves
    ]
    args, kwargs = tree_unflatten(flat, spec)
    return tuple(args), dict(kwargs)


def resized(call: Call, before: int, batch: int) -> Call:
    """The call with another batch size: rows of what has ``before`` repeat or go.

    Example:
        >>> resized(((torch.arange(2), torch.ones(3)), {}), 2, 3)[0]
        (tensor([0, 1, 0]), tensor([1., 1., 1.]))
    """
    leaves, spec = tree_flatten(call)
    index = torch.arange(batch) % before
    flat = [
        leaf.index_select(0, index.to(leaf.device))
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == before
        else leaf
        for leaf in leaves
    ]
    args, kwargs = tree_unflatten(flat, spec)
    return tuple(args), dict(kwargs)
