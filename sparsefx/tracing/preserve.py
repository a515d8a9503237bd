"""Running a model without leaving a trace: state is saved and put back."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.object_trees import box

_TABLES = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (list, dict, set, OrderedDict)  # hooks are in the last


@contextmanager
def preserved(root: nn.Module) -> Iterator[None]:
    """Restores attributes, buffers, flags and random state of ``root`` on exit.

    Covers what forward calls change: running statistics, counters, caches, re-bound
    buffers, ``training`` flags, hooks, random generators (of torch, Python, NumPy), and
    what lists, dicts and sets that are attributes hold.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved(norm):
        ...     _ = norm(torch.randn(4, 2))
        >>> int(norm.num_batches_tracked)
        0
    """
    modules = list(root.modules())
    attributes = [dict(vars(m)) for m in modules]
    tables = [{t: dict(getattr(m, t)) for t in _TABLES} for m in modules]
    held = [
        (value, value.copy())
        for attrs in attributes
        for name, value in attrs.items()
        if name not in _TABLES and type(value) in _CONTAINERS
    ]
    # embeddings with a maximal norm rescale their weight when they are called
    rescaled = [
        m.weight
        for m in modules
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.max_norm is not None
    ]
    written = [*root.buffers(), *rescaled]
    values = [(b, b.detach().clone()) for b in written]
    used = torch.cuda.is_initialized()
    cuda = list(range(torch.cuda.device_count())) if used else []
    python, numpy = random.getstate(), _numpy_random()
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            sys.modules["numpy"].random.set_state(numpy)
        for module, attrs, kept in zip(modules, attributes, tables, strict=True):
            module.__dict__.clear()
            module.__dict__.update(attrs)
            for table, entries in kept.items():
                live = getattr(module, table)
                live.clear()
                live.update(entries)
        for container, contents in held:
            container.clear()
            add = container.extend if type(container) is list else container.update
            add(contents)
        with torch.no_grad():
            for buffer, value in values:
                if buffer.shape != value.shape:
                    buffer.resize_(value.shape)
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def in_eval(root: nn.Module) -> Iterator[None]:
    """Eval mode inside; after it, every module is in the mode that it was in.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with in_eval(net):
        ...     net.training
        False
        >>> net.training, net[1].training
        (True, False)
    """
    modes = [(module, module.training) for module in root.modules()]
    try:
        root.eval()
        yield
    finally:
        root.train(modes[0][1])  # for what a model's own `train` does
        for module, training in modes:
            module.training = training


def host_random() -> dict[str, Any]:
    """States of the random generators that torch knows nothing of, by owner.

    Example:
        >>> before = host_random()
        >>> _ = random.random()
        >>> before["Python"] == host_random()["Python"]
        False
    """
    numpy = _numpy_random()
    found = {"Python": random.getstate()}
    if numpy is not None:
        kind, keys, *rest = numpy
        found["NumPy"] = (kind, keys.tobytes(), *rest)
    return found


def _numpy_random() -> Any:
    """The state of NumPy's own generator, if anyone has loaded NumPy."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()


def written_attributes(root: nn.Module, before: dict[str, dict[str, Any]]) -> list[str]:
    """Names of attributes and buffers that a forward call re-bound."""
    names = []
    for path, old in before.items():
        new = attribute_table(root.get_submodule(path))
        for key in sorted(old.keys() | new.keys()):
            if key != "training" and not _same(old.get(key), new.get(key)):
                names.append(f"{path}.{key}" if path else key)
    return names


def attribute_table(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes and buffers by name; containers as they are now."""
    own = {
        name: value.copy() if type(value) in _CONTAINERS else value
        for name, value in vars(module).items()
        if name not in _TABLES
    }
    return own | dict(module._buffers)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    plain = (bool, int, float, str, torch.dtype, torch.device, set)
    return type(a) is type(b) and isinstance(a, plain) and a == b


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a nest of containers, in order."""
    return [leaf for leaf in tree_flatten(box(value))[0] if isinstance(leaf, Tensor)]
