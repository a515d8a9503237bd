"""What joins, splits and slices do to widths."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any

from torch import fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.widths.axes import FIXED, Axis
from sparsefx.passes.widths.layer_rules import place_of
from sparsefx.passes.widths.width_flow import Rule, Value, Widths, number
from sparsefx.tracing.operations import called


def _cat(flow: Widths, node: fx.Node) -> Value:
    tensors: Any = argument(node, 0, "tensors")
    values = [flow.of(tensor) for tensor in tensors]
    values = [value for value in values if value]
    given = node.kwargs.get("dim", node.kwargs.get("axis"))
    dim = node.args[1] if len(node.args) > 1 else (given or 0)
    dim = int(str(dim)) % len(values[0])
    others = [[a for i, a in enumerate(v) if i != dim] for v in values]
    out = flow.broadcast(others)
    joined = tuple(part for value in values for part in value[dim])
    out.insert(dim, flow.axes.found(joined))
    return out


def _stack(flow: Widths, node: fx.Node) -> Value:
    tensors: Any = argument(node, 0, "tensors")
    out = flow.broadcast([flow.of(tensor) for tensor in tensors])
    dim = int(str(argument(node, 1, "dim") or 0)) % (len(out) + 1)
    out.insert(dim, ((FIXED, len(tensors)),))
    return out


def _split(flow: Widths, node: fx.Node) -> Any:
    x, label = flow.first(node), called(node)
    dim = int(str(argument(node, 2, "dim") or 0)) % len(x)
    axis, given = x[dim], node.args[1] if len(node.args) > 1 else None
    size = flow.axes.size(axis)
    sizes = [flow_size[dim] for flow_size in _part_sizes(node)]
    if label in ("chunk", "split", "tensor_split") and not isinstance(
        given, list | tuple
    ):
        if len(set(sizes)) > 1:
            flow.axes.hold(axis, f"a {label} whose last part is smaller")
        parts = (
            [flow.axes.parts(axis, len(sizes))] * len(sizes)
            if (len(set(sizes)) == 1)
            else [((FIXED, n),) for n in sizes]
        )
        if label == "split":
            name = (
                "split_size"
                if "split_size" in node.kwargs
                else "split_size_or_sections"
            )
            flow.patch(node, place_of(node, 1, name), parts[0])
    else:
        edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        parts = [flow.axes.between(axis, a, b) for a, b in pairwise(edges)]
        for index, part in enumerate(parts):
            flow.patch(node, (0, 1, index), part)
    assert sum(sizes) == size
    return tuple([*x[:dim], part, *x[dim + 1 :]] for part in parts)


def _part_sizes(node: fx.Node) -> list[list[int]]:
    return [[number(size) for size in part.shape] for part in node.meta["val"]]


def _unbind(flow: Widths, node: fx.Node) -> Any:
    x = flow.first(node)
    dim = int(str(argument(node, 1, "dim") or 0)) % len(x)
    flow.axes.hold(x[dim], "it is unbound")
    rest = [*x[:dim], *x[dim + 1 :]]
    return (rest,) * flow.axes.size(x[dim])


def _getitem(flow: Widths, node: fx.Node) -> Any:
    source, index = node.args
    assert isinstance(source, fx.Node)
    value = flow.values[source]
    if value is None:  # an argument of the model that holds several tensors
        return flow.fixed(node)
    if isinstance(value, tuple):
        return value[index] if isinstance(index, int) else tuple(value[index])  # type: ignore
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    plain = (int, slice, type(None), type(Ellipsis))
    if not all(isinstance(item, plain) for item in items):
        return flow.give_up(node, "an index that is computed")
    used = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in items:
        items.append(Ellipsis)
    rest, out = list(value), []
    for place, item in enumerate(items):
        where = (0, 1, place) if isinstance(index, tuple) else (0, 1)
        if item is Ellipsis:
            for _ in range(len(value) - used):
                out.append(rest.pop(0))
        elif item is None:
            out.append(((FIXED, 1),))
        elif isinstance(item, int):
            flow.axes.hold(rest.pop(0), "one entry of it is taken")
        else:
            out.append(_sliced(flow, node, where, rest.pop(0), item))
    return out


def _sliced(
    flow: Widths, node: fx.Node, where: tuple[Any, ...], axis: Axis, item: slice
) -> Axis:
    axes = flow.axes
    if item == slice(None) or not axes.live(axis):
        if any(isinstance(b, fx.Node) for b in (item.start, item.stop, item.step)):
            return axis  # of a size that is computed: nothing here grows
        size = len(range(*item.indices(axes.size(axis))))
        return axis if size == axes.size(axis) else ((FIXED, size),)
    if any(isinstance(bound, fx.Node) for bound in (item.start, item.stop)):
        axes.hold(axis, "it is cut at a place that is computed")
        return axis
    size = axes.size(axis)
    if item.step not in (None, 1):
        if (item.start or 0) >= item.step or item.stop not in (None, size):
            axes.hold(axis, "it is cut in steps")
            return ((FIXED, len(range(*item.indices(size)))),)
        return axes.gathered(axis, item.step)
    start, stop, _ = item.indices(size)
    if item.start not in (None, 0):
        negative = item.start < 0
        part = (
            axes.between(axis, start, size)
            if negative
            else axes.between(axis, 0, start)
        )
        _patch_bound(flow, node, (*where, "start"), part, negative)
    if item.stop is not None and item.stop < size:
        negative = item.stop < 0
        part = (
            axes.between(axis, stop, size) if negative else axes.between(axis, 0, stop)
        )
        _patch_bound(flow, node, (*where, "stop"), part, negative)
    elif item.stop == size:
        flow.patch(node, (*where, "stop"), axis)
    return axes.between(axis, start, stop)


def _patch_bound(
    flow: Widths, node: fx.Node, where: tuple[Any, ...], axis: Axis, negative: bool
) -> None:
    if negative:
        flow.axes.hold(axis, "it is cut counting from its end")
    else:
        flow.patch(node, where, axis)


def _narrow(flow: Widths, node: fx.Node) -> Any:
    x, axes = flow.first(node), flow.axes
    names = ("dim", "start", "length")
    given = [argument(node, i, name) for i, name in enumerate(names, 1)]
    if not all(isinstance(number, int) for number in given):
        return flow.give_up(node, "it is cut at a place that is computed")
    dim, start, length = (int(str(number)) for number in given)
    whole = x[dim]
    if start < 0:
        axes.hold(whole, "it is cut counting from its end")
        start += axes.size(whole)
    x[dim] = axes.between(whole, start, start + length)
    flow.patch(node, place_of(node, 2, "start"), axes.between(whole, 0, start))
    flow.patch(node, place_of(node, 3, "length"), x[dim])
    return x


def _select(flow: Widths, node: fx.Node) -> Value:
    x = flow.first(node)
    dim = int(str(argument(node, 1, "dim"))) % len(x)
    flow.axes.hold(x.pop(dim), "one entry of it is taken")
    return x


def _index_select(flow: Widths, node: fx.Node) -> Value:
    x = flow.first(node)
    dim = int(str(argument(node, 1, "dim"))) % len(x)
    flow.axes.hold(x[dim], "its entries are picked by their places")
    x[dim] = ((FIXED, flow.size(node)[dim]),)
    return x


def _glu(flow: Widths, node: fx.Node) -> Value:
    x = flow.first(node)
    dim = int(str(argument(node, 1, "dim") or -1))
    x[dim] = flow.axes.parts(x[dim], 2)
    return x


PIECES: dict[str, Rule] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _split),
    "unbind": _unbind,
    operator.getitem.__name__: _getitem,
    "narrow": _narrow,
    "select": _select,
    "index_select": _index_select,
    "glu": _glu,
}
