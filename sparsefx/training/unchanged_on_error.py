"""All or nothing for what runs other people's code: if it raises, nothing was done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsefx.masking.compact_weights import give
from sparsefx.masking.state_keys import CHILD


@contextlib.contextmanager
def unchanged_on_error(root: nn.Module) -> Iterator[None]:
    """If the block raises, ``root`` is afterwards what it was, bit for bit.

    That is so for tensors written in place, for attributes of its modules, and for
    what a sparse model remembers beside its tensors. A copy of all tensors is kept
    on the CPU while the block runs.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = layer.weight.tolist()
        >>> with contextlib.suppress(ZeroDivisionError), unchanged_on_error(layer):
        ...     _ = layer.weight.data.zero_()
        ...     1 / 0
        >>> layer.weight.tolist() == before
        True
    """
    undo = [*_tensors(root), *_attributes(root)]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for restore in undo:
                restore()
        raise


def _tensors(root: nn.Module) -> list[Callable[[], object]]:
    """What writes back the tensors that have been written meanwhile."""
    found: dict[int, Tensor] = {}
    for module in root.modules():
        for held in (vars(module), module._parameters, module._buffers):
            for value in held.values():
                if isinstance(value, Tensor) and not is_lazy(value):
                    found[id(value)] = value
    copies = [(t, t.detach().cpu().clone(), t._version) for t in found.values()]
    return [partial(_written_back, *known) for known in copies]


def _written_back(tensor: Tensor, before: Tensor, version: int) -> None:
    # only then: memory that several entries share cannot be written
    if tensor.shape != before.shape:  # kept entries of a weight, or all
        give(tensor, before.to(tensor.device), None)
    elif tensor._version != version or not torch.equal(tensor.cpu(), before):
        tensor.copy_(before)


def _attributes(root: nn.Module) -> list[Callable[[], object]]:
    """What puts back attributes, also those of the parts of a sparse model."""
    undo: list[Callable[[], object]] = []
    for module in root.modules():
        kept = vars(module)
        for held in (kept, module._parameters, module._buffers, module._modules):
            undo.append(partial(_put_back, held, dict(held)))
    life: Any = root._modules.get(CHILD)
    for part in getattr(life, "parts", ()):
        undo += _fields(part)
    if life is not None:
        spending = vars(life.spending)
        undo.append(partial(_put_back, spending, dict(spending)))
    return undo


def _put_back(held: dict[str, Any], before: dict[str, Any]) -> None:
    held.clear()
    held.update(before)


def _fields(part: Any) -> list[Callable[[], object]]:
    undo: list[Callable[[], object]] = []
    for field in fields(part):
        value = getattr(part, field.name)
        undo.append(partial(setattr, part, field.name, value))
        if is_dataclass(value) and not vars(type(value))["__dataclass_params__"].frozen:
            undo += _fields(value)  # units around weights
    return undo
