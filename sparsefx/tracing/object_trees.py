"""Instances of plain classes as containers: torch's trees take them for leaves.

A box stands for an instance while it is flattened; nothing is registered for the
user's own class. Opened are dataclasses, and objects that hold nothing but tensors and
plain values, such as the key and value caches of language models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.torch_internals import register_node, tree_flatten, tree_unflatten
from sparsefx.tracing.node_spelling import is_constant


class Box:
    """An instance, opened: its class, the names of its attributes, their values."""

    def __init__(  # noqa: D107
        self, kind: type, names: tuple[str, ...], values: list[Any]
    ) -> None:
        self.kind = kind
        self.names = names
        self.values = values


register_node(
    Box,
    lambda b: (b.values, (b.kind, b.names)),
    lambda values, context: Box(context[0], context[1], values),
)


def box(value: Any, held: Collection[int] = ()) -> Any:
    """``value`` with the plain instances inside of it as boxes.

    Args:
        value: any nest of containers.
        held: ids of objects that are not opened, because others hold them.

    Example:
        >>> @dataclasses.dataclass
        ... class Answer:
        ...     logits: int
        >>> box([Answer(3)])[0].values
        [3]
    """
    return _box(value, held, ())


def _box(value: Any, held: Collection[int], within: tuple[int, ...]) -> Any:
    leaves, spec = tree_flatten(value)
    opened = [_opened(leaf, held, within) for leaf in leaves]
    if all(new is old for new, old in zip(opened, leaves, strict=True)):
        return value
    return tree_unflatten(opened, spec)


def unbox(value: Any) -> Any:
    """The inverse of `box`: new instances, made without ``__init__``.

    Example:
        >>> @dataclasses.dataclass
        ... class Answer:
        ...     logits: int
        >>> unbox(box((Answer(3),)))[0].logits
        3
    """
    leaves, spec = tree_flatten(value, is_leaf=lambda part: isinstance(part, Box))
    if not any(isinstance(leaf, Box) for leaf in leaves):
        return value
    return tree_unflatten([_closed(leaf) for leaf in leaves], spec)


def _opened(leaf: Any, held: Collection[int], within: tuple[int, ...]) -> Any:
    if _is_data(leaf) or isinstance(leaf, type) or id(leaf) in held:
        return leaf
    if id(leaf) in within:
        return leaf  # an object that holds itself is no tree
    inner = (*within, id(leaf))
    if dataclasses.is_dataclass(leaf):
        names = tuple(field.name for field in dataclasses.fields(leaf))
        return Box(
            type(leaf), names, [_box(getattr(leaf, n), held, inner) for n in names]
        )
    if not _is_plain(leaf):
        return leaf
    table = vars(leaf)
    values = [_box(part, held, inner) for part in table.values()]
    if not all(_is_data(part) for part in tree_flatten(values)[0]):
        return leaf
    return Box(type(leaf), tuple(table), values)


def _is_plain(leaf: Any) -> bool:
    """Whether an object is its ``__dict__`` and nothing else."""
    kind = type(leaf)
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    new: Any = kind.__new__
    return (
        new is object.__new__
        and not slots
        and not callable(leaf)
        and not isinstance(leaf, nn.Module)
    )


def _is_data(part: Any) -> bool:
    symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return isinstance(part, (Tensor, *symbolic)) or is_constant(part)


def _closed(leaf: Any) -> Any:
    if not isinstance(leaf, Box):
        return leaf
    made: Any = object.__new__(leaf.kind)
    for name, item in zip(leaf.names, leaf.values, strict=True):
        object.__setattr__(made, name, unbox(item))
    return made
