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
from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.tracing.operations import called

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
    if rule is None:
        return
    try:
        rule(old, new, lines)
    except (IndexError, KeyError, TypeError, AssertionError) as error:
        raise CaptureError(
            f"{old.name} writes its sizes in a way that is not known; this graph "
            "cannot be shrunk"
        ) from error


def by_place(node: fx.Node) -> frozenset[int]:
    """Dimensions of a call's input whose entries it picks or turns one by one.

    What units divide there cannot be cut: where each entry is found would change.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> x.meta["val"] = torch.ones(4, 3)
        >>> by_place(graph.call_method("index_select", (x, 1, torch.tensor([2, 0, 1]))))
        frozenset({1})
    """
    name, source = called(node), node.args[0] if node.args else None
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, Tensor):
        return frozenset()
    if name == "getitem":
        given = _indexed(node.args[1], value.ndim)
        return frozenset(dim for _, dim, item in given if not _is_plain(item))
    if name == "index_select":
        found = argument(node, 1, "dim")
    elif name == "roll":
        found = argument(node, 2, "dims")
    elif name == "repeat_interleave" and type(argument(node, 1, "repeats")) is not int:
        found = argument(node, 2, "dim")
    else:
        return frozenset()
    dims: Any = range(value.ndim) if found is None else found
    dims = (dims,) if isinstance(dims, int) else dims
    return frozenset(dim % value.ndim for dim in dims)


def _indexed(index: Any, ndim: int) -> list[tuple[int, int, Any]]:
    """Place, dimension and item of what an index says of each dimension."""
    items = list(index) if isinstance(index, tuple) else [index]
    found, dim = [], 0
    taken = sum(_depth(item) for item in items)
    for place, item in enumerate(items):
        if item is Ellipsis:
            dim += ndim - taken
        else:
            found += [(place, dim + i, item) for i in range(_depth(item))]
            dim += _depth(item)
    return found


def _depth(item: Any) -> int:
    """How many dimensions an item of an index speaks of."""
    if item is None or item is Ellipsis:
        return 0
    value = item.meta.get("val") if isinstance(item, fx.Node) else item
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        return value.ndim
    return 1


def _is_plain(item: Any) -> bool:
    """A number, or a slice of neighbours that begins and ends at numbers."""
    if isinstance(item, slice):
        nodes = isinstance(item.start, fx.Node) or isinstance(item.stop, fx.Node)
        return item == slice(None) or (item.step in (None, 1) and not nodes)
    return type(item) is int


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
    names = enumerate(("dim", "start", "length"), 1)
    dim, start, length = (int(str(argument(old, i, name))) for i, name in names)
    dim %= old.meta["val"].ndim
    stay = lines.stays(source).get(dim)
    if stay is not None:
        start, stop, _ = slice(start, start + length).indices(stay.numel())
        first = int(stay[:start].sum())
        new.args = (new.args[0], dim, first, int(stay[start:stop].sum()))
        new.kwargs = {}


def _getitem(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    source, index = old.args[0], new.args[1]
    assert isinstance(source, fx.Node)
    stays = lines.stays(source)
    if not stays or not isinstance(source.meta.get("val"), Tensor):
        return
    items = list(index) if isinstance(index, tuple) else [index]
    for place, dim, item in _indexed(index, source.meta["val"].ndim):
        if dim in stays:
            items[place] = _index(new, item, stays[dim])
    new.args = (new.args[0], tuple(items) if isinstance(index, tuple) else items[0])


def _index(new: fx.Node, item: Any, stay: Tensor) -> Any:
    if isinstance(item, int):
        if not bool(stay[item]):
            raise CaptureError(f"{new.name} reads index {item}, whose unit is removed")
        return int(stay[: item % stay.numel()].sum())
    start, stop, _ = item.indices(stay.numel())
    first = int(stay[:start].sum())
    return slice(first, first + int(stay[start:stop].sum()))


def _groups(old: fx.Node, new: fx.Node, lines: Lines) -> None:
    """Depthwise convolutions and group norms: as many groups as there are channels
    left, over as many as a group has."""
    place, name = (1, "num_groups") if called(old) == "group_norm" else (6, "groups")
    stay, groups = lines.stays(old).get(1), argument(old, place, name)
    if stay is None or groups in (None, 1):
        return
    assert isinstance(groups, int)
    count = int(stay.sum()) * groups // stay.numel()
    if len(old.args) > place:
        new.args = (*new.args[:place], count, *new.args[place + 1 :])
    else:
        new.kwargs = {**new.kwargs, name: count}


_RULES: Mapping[str, Callable[[fx.Node, fx.Node, Lines], None]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to"), _sizes),
    "unflatten": _unflatten,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _split),
    "narrow": _narrow,
    "getitem": _getitem,
    **{f"conv{n}d": _groups for n in (1, 2, 3)},
    "group_norm": _groups,
}
