"""Dataclass instances as containers: torch's trees take them for leaves.

A box stands for an instance while it is flattened; nothing is registered for the
user's own class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsefx.private import register_node, tree_is_leaf


class Box:
    """A dataclass instance, opened."""

    def __init__(self, kind: type, values: list[Any]) -> None:  # noqa: D107
        self.kind = kind
        self.values = values


register_node(Box, lambda b: (b.values, b.kind), lambda values, kind: Box(kind, values))


def box(value: Any) -> Any:
    """``value`` with the dataclass instances inside of it as boxes.

    Example:
        >>> @dataclasses.dataclass
        ... class Answer:
        ...     logits: int
        >>> box([Answer(3)])[0].values
        [3]
    """
    if _is_instance(value):
        names = [field.name for field in dataclasses.fields(value)]
        return Box(type(value), [box(getattr(value, name)) for name in names])
    if type(value) in (list, tuple):
        return type(value)(box(item) for item in value)
    if type(value) is dict:
        return {key: box(item) for key, item in value.items()}
    return value


def unbox(value: Any) -> Any:
    """The inverse of `box`: new instances, made without ``__init__``.

    Example:
        >>> @dataclasses.dataclass
        ... class Answer:
        ...     logits: int
        >>> unbox(box((Answer(3),)))[0].logits
        3
    """
    if isinstance(value, Box):
        made: Any = object.__new__(value.kind)
        fields = dataclasses.fields(value.kind)
        for field, item in zip(fields, value.values, strict=True):
            object.__setattr__(made, field.name, unbox(item))
        return made
    if type(value) in (list, tuple):
        return type(value)(unbox(item) for item in value)
    if type(value) is dict:
        return {key: unbox(item) for key, item in value.items()}
    return value


def _is_instance(value: Any) -> bool:
    known = not isinstance(value, type) and dataclasses.is_dataclass(value)
    return known and tree_is_leaf(value)
