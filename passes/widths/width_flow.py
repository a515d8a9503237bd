"""Follows channel groups through a graph, node by node: who must grow with whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.passes.iso_flop.replaceable_layers import is_batch_norm
from sparsefx.passes.widths.axes import FIXED, Axes, Axis
from sparsefx.tracing.operations import called

_BATCH = 10_007  # what a symbolic size counts as: no channel is as many
Value = list[Axis]
Rule = Callable[["Widths", fx.Node], Any]


class Widths:
    """The axes of every value of a graph.

    Attributes:
        root: a graph module that owns its tensors, with recorded values.
        axes: the groups.
        values: the axes of each node's tensor, or tuples of them.
        parameters: the axes of each parameter and resizable buffer, by name.
        norms: channels of the norm modules, by path.
        patches: what rewrites a literal size once the widths are known.
        products: the contracted axis of products of activations, by node.
        by_count: nodes whose heads grow in number, not in size.
    """

    def __init__(  # noqa: D107
        self,
        root: fx.GraphModule,
        held: Mapping[str, str],
        by_count: frozenset[str],
    ) -> None:
        self.root = root
        self.axes = Axes()
        self.values: dict[fx.Node, Any] = {}
        self.parameters: dict[str, Value] = {}
        self.norms: dict[str, Axis] = {}
        self.patches: list[Callable[[dict[int, int]], None]] = []
        self.products: dict[fx.Node, Axis] = {}
        self.by_count = by_count
        self.splits: dict[str, list[Axis]] = {}
        self._held = held
        self._names = {
            id(value): name
            for name, value in (*root.named_buffers(), *root.named_parameters())
        }

    def follow(self, rule_of: Callable[[str], Rule | None]) -> None:
        """Goes through the graph once.

        Args:
            rule_of: what a call does to axes, by the name of its operation.
        """
        for node in self.root.graph.nodes:
            self.axes.where = node.name
            if node.op == "placeholder":
                self.values[node] = self.fixed(node)
            elif node.op == "get_attr":
                self.values[node] = self._read(node)
            elif node.op == "output":
                self.axes.where = ""  # known to all: nothing to report
                for value in self._inputs(node):
                    for axis in value:
                        self.axes.hold(axis, "it is an output of the model")
            elif node.op == "call_module":
                self.values[node] = self._module(node)
            else:
                self.values[node] = self._call(node, rule_of)
        self.axes.where = ""

    def _call(self, node: fx.Node, rule_of: Callable[[str], Rule | None]) -> Any:
        if not _has_tensor(node.meta.get("val")):
            return None
        if node.name in self._held:
            return self.give_up(node, self._held[node.name])
        name = called(node)
        rule = rule_of(name)
        if rule is None:
            return self.give_up(node, f"no rule says what {name} does to widths")
        try:
            found = rule(self, node)
        except Exception:  # rules are written for the usual ways to call
            return self.give_up(node, f"{name} is used in a way no rule knows")
        value = node.meta["val"]
        if isinstance(value, Tensor):
            sizes = [self.axes.size(axis) for axis in found]
            wanted = [number(size) for size in value.shape]
            if sizes != wanted:
                return self.give_up(node, f"{name} is used in a way no rule knows")
        return found

    def _read(self, node: fx.Node) -> Any:
        value = attrgetter(str(node.target))(self.root)
        if not isinstance(value, Tensor):
            return None
        if isinstance(value, nn.Parameter):
            return self._own(value)
        return self.fixed(node)

    def _own(self, value: Tensor) -> Value:
        name = self._names[id(value)]
        if name not in self.parameters:
            self.parameters[name] = [self.axes.group(size) for size in value.shape]
        return self.parameters[name]

    def own_buffer(self, node: object) -> None:
        """Lets a buffer take on new sizes, such as a functional norm's statistics."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            value = attrgetter(str(node.target))(self.root)
            self.values[node] = self._own(value)

    def _module(self, node: fx.Node) -> Any:
        value = self.of(node.args[0])
        path = str(node.target)
        if is_batch_norm(self.root, node):
            first = self.norms.setdefault(path, value[1])
            self.axes.equal(first, value[1])
        elif next(self.root.get_submodule(path).parameters(), None) is not None:
            return self.give_up(node, "a module that is not recorded down to weights")
        return value

    def of(self, node: object) -> Value:
        """The axes of a tensor argument; a number has none."""
        if isinstance(node, fx.Node):
            value = self.values.get(node)
            return list(value) if value is not None else []
        return []

    def first(self, node: fx.Node) -> Value:
        """The axes of a call's input."""
        return self.of(node.args[0] if node.args else node.kwargs["input"])

    def fixed(self, node: fx.Node) -> Any:
        """Axes that never change, for all that a node gives."""

        def axes_of(value: Any) -> Any:
            if isinstance(value, Tensor):
                return [((FIXED, number(size)),) for size in value.shape]
            if isinstance(value, tuple | list):
                return tuple(axes_of(item) for item in value)
            return None

        return axes_of(node.meta.get("val"))

    def give_up(self, node: fx.Node, reason: str) -> Any:
        """Holds every group that a node reads at its size."""
        for value in self._inputs(node):
            for axis in value:
                self.axes.hold(axis, reason)
        return self.fixed(node)

    def _inputs(self, node: fx.Node) -> list[Value]:
        found: list[Value] = []

        def collect(value: Any) -> None:
            if isinstance(value, tuple):
                for item in value:
                    collect(item)
            elif isinstance(value, list):
                found.append(value)

        for source in node.all_input_nodes:
            collect(self.values.get(source))
        return found

    def size(self, node: fx.Node) -> list[int]:
        """The recorded sizes of a node's tensor, symbols as a large prime."""
        return [number(size) for size in node.meta["val"].shape]

    def broadcast(self, values: Sequence[Value]) -> Value:
        """The axes of an operation entry by entry."""
        depth = max((len(value) for value in values), default=0)
        out: Value = []
        for place in range(-depth, 0):
            here = [v[place] for v in values if len(v) >= -place]
            wide = [axis for axis in here if self.axes.size(axis) != 1]
            for axis in wide[1:]:
                self.axes.equal(wide[0], axis)
            out.append(wide[0] if wide else here[0])
        return out

    def patch(self, node: fx.Node, place: Sequence[Any], axis: Axis) -> None:
        """Rewrites a literal in a node's arguments when the widths are known.

        Args:
            node: the node.
            place: path into ``(args, kwargs)``, such as ``(0, 1, 2)`` for the third
                item of the second positional argument.
            axis: whose width it is.
        """

        def write(widths: dict[int, int]) -> None:
            if not self.axes.live(axis):
                return
            width = self.axes.width(axis, widths)
            whole = _with((node.args, node.kwargs), list(place), width)
            node.args, node.kwargs = whole

        self.patches.append(write)


def _with(container: Any, place: list[Any], value: Any) -> Any:
    """A copy of nested arguments with one item replaced; only ints are."""
    if not place:
        return value if type(container) is int and container != -1 else container
    key, *rest = place
    if isinstance(container, slice):
        bounds = {n: getattr(container, n) for n in ("start", "stop", "step")}
        bounds[key] = _with(bounds[key], rest, value)
        return slice(bounds["start"], bounds["stop"], bounds["step"])
    if isinstance(container, Mapping):
        return {**container, key: _with(container[key], rest, value)}
    items = list(container)
    items[key] = _with(items[key], rest, value)
    return type(container)(items) if isinstance(container, list) else tuple(items)


def number(size: Any) -> int:
    """A size as a number; a symbolic batch counts as a large prime."""
    if isinstance(size, torch.SymInt):
        expr = size.node.expr
        return int(expr.subs(dict.fromkeys(expr.free_symbols, _BATCH)))
    return int(size)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_tensor, value))
    return isinstance(value, Tensor)
