"""Adds nodes to a recorded graph; each notes its value, as recorded ones do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.torch_internals import FakeTensor, FakeTensorMode, tree_flatten
from sparsefx.tracing.merge_modes import by_mode
from sparsefx.tracing.symbolic_inputs import on_fakes


def _value(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return False if value is None and node.op == "get_attr" else value


def value_of(argument: Any) -> Any:
    """The recorded value behind an argument: nodes become their ``meta["val"]``.

    A module's flag, which has none, counts as False.
    """
    return fx.node.map_arg(argument, _value)


def note_value(node: fx.Node, mode: FakeTensorMode | None = None) -> None:
    """Writes what a node's call gives on recorded values into ``meta["val"]``.

    Nothing is written where its arguments carry none. ``mode`` is that of the graph's
    inputs, for calls that take a size of theirs and a parameter.
    """
    args, kwargs = value_of((node.args, node.kwargs))
    leaves, _ = tree_flatten((args, kwargs))
    known = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not known and node.target is not by_mode:
        return
    fakes = [leaf for leaf in known if isinstance(leaf, FakeTensor)]
    mode = fakes[0].fake_mode if fakes else mode
    with on_fakes(mode) if mode else nullcontext(), torch.no_grad():
        if node.op == "call_method":
            node.meta["val"] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            node.meta["val"] = node.target(*args, **kwargs)


class Writer:
    """Appends calls to a graph at its insertion point, in the name of one module.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> write = Writer(graph, "layer")
        >>> node = write(torch.relu, write("flatten", x, 1))
        >>> node.meta["module"], [n.name for n in graph.nodes]
        ('layer', ['x', 'flatten', 'relu'])
    """

    def __init__(self, graph: fx.Graph, module: str) -> None:  # noqa: D107
        self.graph = graph
        self.module = module

    def __call__(
        self, target: str | Callable[..., Any], *args: Any, **kwargs: Any
    ) -> fx.Node:
        """A method where ``target`` is a name, else a function."""
        kind = "call_method" if isinstance(target, str) else "call_function"
        node = self.graph.create_node(kind, target, args, kwargs)
        node.meta["module"] = self.module
        note_value(node)
        return node
