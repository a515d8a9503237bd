"""What views, permutations and repetitions do to widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.widths.axes import FIXED
from sparsefx.passes.widths.layer_rules import place_of
from sparsefx.passes.widths.width_flow import Rule, Value, Widths
from sparsefx.tracing.operations import called


def _reshape(flow: Widths, node: fx.Node) -> Any:
    x, sizes = flow.first(node), flow.size(node)
    out = _regroup(flow, node, x, sizes)
    literals, place = _literals(node)
    if called(node) in ("view_as", "reshape_as"):
        out = flow.broadcast([out, flow.of(argument(node, 1, "other"))])
    if literals is not None:
        if called(node) == "unflatten":
            dim = int(str(argument(node, 1, "dim"))) % len(x)
            out_of = out[dim : dim + len(literals)]
        else:
            out_of = out
        for index, axis in enumerate(out_of):
            flow.patch(node, (*place, index), axis) if place else flow.patch(
                node, (0, index + 1), axis
            )
    return out


def _literals(node: fx.Node) -> tuple[Sequence[Any] | None, tuple[Any, ...]]:
    """The sizes a call spells out, and where; an empty place: as arguments."""
    label = called(node)
    if label in ("view", "reshape", "expand", "broadcast_to"):
        name = "shape" if "shape" in node.kwargs else "size"
        sizes = argument(node, 1, name)
        if isinstance(sizes, list | tuple):
            return sizes, place_of(node, 1, name)
        return node.args[1:], ()
    if label == "unflatten":
        sizes = argument(node, 2, "sizes")
        if isinstance(sizes, list | tuple):
            return sizes, place_of(node, 2, "sizes")
    return None, ()


def _regroup(flow: Widths, node: fx.Node, x: Value, sizes: Sequence[int]) -> Value:
    """The axes after a view: neighbours whose sizes multiply to the same."""
    axes = flow.axes
    out: Value = []
    rest = [axis for axis in x if axes.size(axis) != 1]
    wanted = [size for size in sizes if size != 1]
    made: Value = []
    while rest and wanted:
        ins, outs = [rest.pop(0)], [wanted.pop(0)]
        while (a := math.prod(map(axes.size, ins))) != (b := math.prod(outs)):
            if a < b:
                ins.append(rest.pop(0))
            else:
                outs.append(wanted.pop(0))
        merged = ins[0]
        for axis in ins[1:]:
            merged = axes.merge(merged, axis)
        last = len(outs) - 1
        grown = max(last - 1, 0) if node.name in flow.by_count else last
        parts = axes.split(merged, outs, grown)
        if len(outs) > 1 and axes.live(merged):
            flow.splits[node.name] = parts
        made += parts
    for size in sizes:
        out.append(((FIXED, 1),) if size == 1 else made.pop(0))
    return out


def _squeeze(flow: Widths, node: fx.Node) -> Any:
    return _regroup(flow, node, flow.first(node), flow.size(node))


def _permute(flow: Widths, node: fx.Node) -> Value:
    x, label = flow.first(node), called(node)
    if label == "permute":
        dims: Any = argument(node, 1, "dims")
        dims = dims if isinstance(dims, list | tuple) else node.args[1:]
        return [x[d] for d in dims]
    if label in ("movedim", "moveaxis"):
        given: Any = argument(node, 1, "source"), argument(node, 2, "destination")
        source, target = (
            list(d) if isinstance(d, list | tuple) else [d] for d in given
        )
        order = [i for i in range(len(x)) if i not in [d % len(x) for d in source]]
        pairs = zip(target, source, strict=True)
        for to, of in sorted((t % len(x), s % len(x)) for t, s in pairs):
            order.insert(to, of)
        return [x[i] for i in order]
    last = len(x) - 1
    if label in ("T", "H", "mT", "mH", "adjoint"):
        swap = (0, last) if label in "TH" else (last - 1, last)
    elif label == "t":
        swap = (0, last)
    else:
        swap = tuple(int(str(d)) for d in node.args[1:3])  # type: ignore[assignment]
        if len(swap) < 2:
            swap = tuple(node.kwargs[f"dim{i}"] for i in (0, 1))
    x[swap[0]], x[swap[1]] = x[swap[1]], x[swap[0]]
    return x


def _expand(flow: Widths, node: fx.Node) -> Value:
    x, sizes = flow.first(node), flow.size(node)
    more = len(sizes) - len(x)
    literals, place = _literals(node)
    out: Value = [((FIXED, size),) for size in sizes[:more]]
    for index, axis in enumerate(x, start=more):
        kept = flow.axes.size(axis) == sizes[index]
        out.append(axis if kept else ((FIXED, sizes[index]),))
        if kept and literals is not None:
            flow.patch(node, (*place, index) if place else (0, index + 1), axis)
    return out


def _expand_as(flow: Widths, node: fx.Node) -> Value:
    """Axes of size 1 stretch to the other's, the rest are the other's."""
    return flow.broadcast([flow.first(node), flow.of(argument(node, 1, "other"))])


def _turned(flow: Widths, node: fx.Node) -> Value:
    """What is turned around grows at its other end."""
    x, roll = flow.first(node), called(node) == "roll"
    dims: Any = argument(node, 2 if roll else 1, "dims")
    if isinstance(dims, int):
        dims = (dims,) if roll else node.args[1:]
    for dim in range(len(x)) if dims is None else dims:
        flow.axes.hold(x[dim], "its order is turned")
    return x


def _repeat(flow: Widths, node: fx.Node) -> Any:
    x, sizes = flow.first(node), flow.size(node)
    out: Value = [((FIXED, size),) for size in sizes[: len(sizes) - len(x)]]
    for axis, size in zip(x, sizes[len(out) :], strict=True):
        old = flow.axes.size(axis)
        out.append(
            ((FIXED, size),) if old == 1 else flow.axes.copies(axis, size // old)
        )
    return out


def _interleave(flow: Widths, node: fx.Node) -> Any:
    x, count = flow.first(node), argument(node, 1, "repeats")
    dim = argument(node, 2, "dim")
    if not isinstance(count, int) or not isinstance(dim, int):
        return flow.give_up(node, "it is repeated unevenly")
    x[dim] = flow.axes.spread(x[dim], count)
    return x


def _pixel_shuffle(flow: Widths, node: fx.Node) -> Value:
    x, sizes = flow.first(node), flow.size(node)
    down = called(node) == "pixel_unshuffle"
    name = "downscale_factor" if down else "upscale_factor"
    many = int(str(argument(node, 1, name))) ** 2
    for axis in x[-2:]:
        flow.axes.hold(axis, "a grid is resampled")
    x[-3] = flow.axes.spread(x[-3], many) if down else flow.axes.gathered(x[-3], many)
    return [*x[:-2], *(((FIXED, size),) for size in sizes[-2:])]


VIEWS: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "unflatten", "view_as", "reshape_as"), _reshape
    ),
    **dict.fromkeys(("flatten", "squeeze", "unsqueeze", "ravel"), _squeeze),
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"),
        _permute,
    ),
    **dict.fromkeys(("T", "mT", "H", "mH", "adjoint"), _permute),
    **dict.fromkeys(("expand", "broadcast_to"), _expand),
    "expand_as": _expand_as,
    **dict.fromkeys(("flip", "roll"), _turned),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _interleave,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _pixel_shuffle),
}
