"""Rewrites the sizes that a recorded graph has written down, once units are gone."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.errors import CaptureError
from sparsefx.passes.units.tag_interpreter import called

Layout = Mapping[str, list[Mapping[int, tuple[Tensor, Tensor]]]]


@dataclass(frozen=True, slots=True)
class Lines:
    """For each node of the old graph, which indices of each dimension stay.

    Attributes:
        layout: how units divide the nodes' values.
        keeps: by group number, bool, one entry a unit.
    """

    layout: Layout
    keeps: Sequence[Tensor]

    def stays(self, node: fx.Node, part: int = 0) -> dict[int, Tensor]:
        """By dimension, whether each index stays; only where some do not."""
        parts = self.layout.get(node.name, [])
        found = {}
        for dim, (groups, units) in (parts[part] if part < len(parts) else {}).items():
            stay = torch.ones_like(groups, dtype=torch.bool)
            for index, keep in enumerate(self.keeps):
                own = groups == index
                stay[own] = keep[units[own]]
            if not bool(stay.all()):
                found[dim] = stay
        return found


def resize(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    """Edits one copied node so that it computes the smaller value.

    Sizes are found by their position, never by their value.

    Raises:
        CaptureError: a size is used in a way that cannot be followed.
    """
    rule = _RULES.get(called(old))
    if rule is not None:
        rule(old, new, lines)


def _sizes(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    """``view``, ``reshape``, ``expand``: one size a dimension of the result."""
    stays = lines.stays(old)
    if not stays:
        return
    first: Any = new.args[1]
    packed = len(new.args) == 2 and isinstance(first, (tuple, list))
    sizes: list[Any] = list(first) if packed else list(new.args[1:])
    for dim, stay in stays.items():
        sizes[dim] = _scaled(new, sizes[dim], stay)
    new.args = (new.args[0], tuple(sizes)) if packed else (new.args[0], *sizes)


def _scaled(new: fx.Node, size: Any, stay: Tensor) -> Any:
    count, total = int(stay.sum()), stay.numel()
    if isinstance(size, int):
        if size not in (-1, total):
            raise CaptureError(
                f"{new.name} makes a dimension of {size} where units divide {total}; "
                "this graph cannot be shrunk"
            )
        return size if size == -1 else count
    with new.graph.inserting_before(new):
        part = math.gcd(count, total)
        scaled = new.graph.call_function(operator.mul, (size, count // part))
        return new.graph.call_function(operator.floordiv, (scaled, total // part))


def _unflatten(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    stays = lines.stays(old)
    given: tuple[Any, ...] = new.args
    sizes, start = list(given[2]), int(given[1])
    if start < 0:
        start += old.meta["val"].ndim - len(sizes) + 1
    for dim, stay in stays.items():
        if start <= dim < start + len(sizes):
            sizes[dim - start] = _scaled(new, sizes[dim - start], stay)
    new.args = (*new.args[:2], tuple(sizes))


def _split(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    """``split`` and ``chunk``: the pieces' new sizes, written out."""
    source = old.args[0]
    assert isinstance(source, fx.Node)
    before = lines.stays(source)
    if not before:
        return
    args: list[Any] = list(old.args)
    kwargs: dict[str, Any] = dict(old.kwargs)
    dim = int(kwargs.get("dim", args[2] if len(args) > 2 else 0))
    pieces = [part.shape for part in old.meta["val"]]
    dim %= len(pieces[0])
    stay = before.get(dim)
    if stay is None:
        return
    sizes, start = [], 0
    for piece in pieces:
        end = start + int(piece[dim])
        sizes.append(int(stay[start:end].sum()))
        start = end
    new.op, new.target = "call_method", "split"
    new.args, new.kwargs = (new.args[0], sizes, dim), {}


def _narrow(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    source = old.args[0]
    assert isinstance(source, fx.Node)
    given: tuple[Any, ...] = old.args
    dim = int(given[1]) % old.meta["val"].ndim
    stay = lines.stays(source).get(dim)
    if stay is not None:
        start, length = old.args[2:4]
        assert isinstance(start, int)
        assert isinstance(length, int)
        first = int(stay[:start].sum())
        count = int(stay[start : start + length].sum())
        new.args = (new.args[0], dim, first, count)


def _getitem(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    source, index = old.args[0], new.args[1]
    assert isinstance(source, fx.Node)
    if not isinstance(source.meta.get("val"), Tensor):
        return
    stays = lines.stays(source)
    if not stays:
        return
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(1 for item in items if item is not None and item is not Ellipsis)
    dim = 0
    for place, item in enumerate(items):
        if item is None:
            continue
        if item is Ellipsis:
            dim += source.meta["val"].ndim - taken
            continue
        if dim in stays:
            items[place] = _index(new, item, stays[dim])
        dim += 1
    new.args = (new.args[0], tuple(items) if isinstance(index, tuple) else items[0])


def _index(new: fx.Node, item: Any, stay: Tensor) -> Any:
    if isinstance(item, int):
        if not bool(stay[item]):
            raise CaptureError(f"{new.name} reads index {item}, whose unit is removed")
        return int(stay[: item % stay.numel()].sum())
    plain = isinstance(item, slice) and item.step in (None, 1)
    if not plain or any(isinstance(x, fx.Node) for x in (item.start, item.stop)):
        raise CaptureError(
            f"{new.name} picks {item} out of a dimension that units divide; this "
            "graph cannot be shrunk"
        )
    start, stop, _ = item.indices(stay.numel())
    first = int(stay[:start].sum())
    return slice(first, first + int(stay[start:stop].sum()))


def _groups(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    """A depthwise convolution has as many groups as channels."""
    stay = lines.stays(old).get(1)
    groups = old.args[6] if len(old.args) > 6 else old.kwargs.get("groups", 1)
    if stay is None or groups == 1:
        return
    count = int(stay.sum())
    if len(old.args) > 6:
        new.args = (*new.args[:6], count, *new.args[7:])
    else:
        new.kwargs = {**new.kwargs, "groups": count}


_RULES: Mapping[str, Callable[[fx.Node, fx.Node, Lines], None]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to"), _sizes),
    "unflatten": _unflatten,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _split),
    "narrow": _narrow,
    **dict.fromkeys(("getitem", "__getitem__"), _getitem),
    **{f"conv{n}d": _groups for n in (1, 2, 3)},
}
