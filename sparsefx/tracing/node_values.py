"""Which node of a graph holds which value, while the graph is being recorded."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.node_spelling import SIZE_OPERATORS, is_constant

if TYPE_CHECKING:
    import sympy


class NodeValues:
    """The graph under construction, and the node of every value seen so far.

    Attributes:
        graph: the graph; nodes are appended.
        names: names of the module's own tensors, by id.
        stack: paths of the modules whose Python is running, innermost last.
        sizes: for each symbol, a placeholder and the dimension that has it.
    """

    def __init__(self, root: nn.Module) -> None:  # noqa: D107
        self.graph = fx.Graph()
        self.names = tensor_names(root)
        self.stack = [""]
        self.sizes: dict[sympy.Symbol, tuple[fx.Node, int]] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._weights: dict[tuple[int, int], fx.Node] = {}
        self._regions, self._entered = [0], 0
        self._alive: list[Any] = []  # ids stay unique while values live
        self._expressions: dict[sympy.Basic, fx.Node] = {}

    def where(self) -> str:
        """The running module, for messages."""
        return f"module {self.stack[-1]!r}" if self.stack[-1] else "the root module"

    def enter(self) -> None:
        """Begins a region of another gradient or autocast mode.

        A weight is read anew in it: masked once outside and once inside, with the
        gradient and the precision that each wants.
        """
        self._entered += 1
        self._regions.append(self._entered)

    def leave(self) -> None:
        """Ends that region."""
        self._regions.pop()

    def keep(self, value: Any, node: fx.Node) -> fx.Node:
        """Notes that ``node`` holds ``value``, and its parts if it is a tuple."""
        node.meta.setdefault("module", self.stack[-1])
        node.meta["val"] = value
        if isinstance(value, Tensor):
            if node.op == "get_attr":
                self._weights[id(value), self._regions[-1]] = node
            else:
                self._nodes[id(value)] = node
            self._alive.append(value)
        elif isinstance(value, (tuple, list)):
            for index, item in enumerate(value):
                leaves, _ = tree_flatten(item)
                if any(isinstance(leaf, Tensor) for leaf in leaves):
                    args = (node, index)
                    part = self.graph.call_function(operator.getitem, args)
                    self.keep(item, part)
        return node

    def argument(self, value: Any, use: str = "passes {} to a torch function") -> Any:
        """``value`` with tensors and symbolic sizes replaced by their nodes.

        Raises:
            CaptureError: a part of it is nothing that a graph can hold.
        """
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._expression(value.node.expr)
        if isinstance(value, (tuple, list)):
            items = [self.argument(item, use) for item in value]
            if hasattr(value, "_fields"):
                return type(value)(*items)
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.argument(item, use) for key, item in value.items()}
        if isinstance(value, slice):
            bounds = (value.start, value.stop, value.step)
            return slice(*(self.argument(bound, use) for bound in bounds))
        kinds: tuple[Any, ...] = (int, float, complex)
        for plain in kinds:  # of a subclass, such as NumPy's
            if isinstance(value, plain) and type(value) not in (plain, bool):
                return plain(value)
        if is_constant(value):
            return value
        raise CaptureError(f"{self.where()} {use.format(f'a {type(value).__name__}')}")

    def _node_of(self, value: Tensor) -> fx.Node:
        read = self._weights.get((id(value), self._regions[-1]))
        node = self._nodes.get(id(value), read)
        if node is not None:
            return node
        name = self.names.get(id(value))
        if name is None:
            raise CaptureError(
                f"{self.where()} uses a tensor of shape {tuple(value.shape)} that is "
                "neither an input, a parameter, a buffer nor an attribute of a module"
            )
        node = self.keep(value, self.graph.create_node("get_attr", name))
        node.meta["shape"] = tuple(value.shape)  # as recorded: buffers may be resized
        return node

    def _expression(self, expr: Any) -> Any:
        """Nodes that compute a symbolic size from the inputs' sizes."""
        if expr.is_Integer:
            return int(expr)
        if expr.is_number:
            return float(expr)
        if expr in self._expressions:
            return self._expressions[expr]
        if expr.is_Symbol:
            tensor, dim = self.sizes[expr]
            node = self.graph.call_method("size", (tensor, dim))
        else:
            function = SIZE_OPERATORS.get(type(expr).__name__)
            if function is None:
                raise CaptureError(f"{self.where()} computes the size {expr}")
            args = [self._expression(arg) for arg in expr.args]
            node = self.graph.call_function(function, (args[0], args[1]))
            for arg in args[2:]:
                node = self.graph.call_function(function, (node, arg))
        node.meta["module"] = self.stack[-1]
        self._expressions[expr] = node
        return node


def items_of(container: Any) -> list[tuple[str, Any]]:
    """The items of a list, a tuple or a dict, with the words for where they are."""
    if type(container) in (list, tuple):
        return [(str(index), item) for index, item in enumerate(container)]
    if type(container) is dict:
        return [(repr(key), item) for key, item in container.items()]
    return []


def attribute(module: nn.Module, name: str) -> Any:
    """A plain attribute, or an item of one (``"tables[3]"``); None if there is none.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.tables = [torch.ones(1), torch.zeros(1)]
        >>> attribute(layer, "tables[1]")
        tensor([0.])
    """
    name, _, key = name.partition("[")
    value = vars(module).get(name)
    return dict(items_of(value)).get(key[:-1]) if key else value


def tensor_names(root: nn.Module) -> Mapping[int, str]:
    """Names of a module's tensors by id: parameters first, then buffers, attributes.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> tensor_names(layer)[id(layer.weight)]
        'weight'
    """
    names: dict[int, str] = {}
    for path, module in reversed(list(root.named_modules())):
        dot = f"{path}." if path else ""
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                names[id(value)] = dot + name
            elif name not in ("_parameters", "_buffers"):
                for key, item in items_of(value):
                    if isinstance(item, Tensor) and "." not in key:
                        names[id(item)] = f"{dot}{name}[{key}]"
    for name, tensor in [*root.named_buffers(), *root.named_parameters()]:
        names[id(tensor)] = name
    return names
