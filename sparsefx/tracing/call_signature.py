"""Gives a recorded graph the call signature and the answers of its model."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from sparsefx.torch_internals import TreeSpec, tree_unflatten
from sparsefx.tracing.example_calls import Call
from sparsefx.tracing.object_trees import unbox


def with_signature(
    graph_module: fx.GraphModule, output: TreeSpec | None, model: nn.Module, call: Call
) -> fx.GraphModule:
    """Makes a graph take the arguments of a call by name, and give nested outputs.

    A recorded graph takes and gives flat tensors. Arguments that are no tensors stay
    as parameters with the value of the call, which the graph was recorded with.

    Args:
        graph_module: with one placeholder a tensor of the call; changed in place.
        output: how its outputs nest, or None if they do not.
        model: whose ``forward`` names positional arguments.
        call: the example call ``(args, kwargs)``.

    Example:
        >>> import torch
        >>> from sparsefx.tracing.capture import capture
        >>> class Scale(nn.Module):
        ...     def forward(self, image, *, extra):
        ...         return {"out": image * extra["by"]}
        >>> parts = {"by": torch.ones(2, 1)}
        >>> net = nn.ModuleList([nn.Linear(1, 1)]) and Scale()
        >>> net.unused = nn.Linear(2, 2)
        >>> call = (torch.ones(2, 3),), {"extra": parts}
        >>> from sparsefx.tracing.recorder import record
        >>> found = record(net, *call)
        >>> graph = with_signature(fx.GraphModule(net, found.graph), found.output, net,
        ...                        call)
        >>> sorted(graph(torch.ones(2, 3), extra=parts))
        ['out']
    """
    graph = graph_module.graph
    flat = iter([node for node in graph.nodes if node.op == "placeholder"])
    named = {**_positional(model, call[0]), **call[1]}
    first = next(iter(graph.nodes))
    heads, optional = {}, False
    with graph.inserting_before(first):
        for name, value in named.items():
            plain = not isinstance(value, Tensor | tuple | list | Mapping)
            optional = optional or plain
            if optional:  # Python wants a default for all behind the first one
                default = value if plain else None
                heads[name] = graph.placeholder(name, default_value=default)
            else:
                heads[name] = graph.placeholder(name)
    body = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(body):
        for name, value in named.items():
            _open(graph, heads[name], value, flat)
    end = graph.output_node()
    if output is not None:
        leaves = [end.args[0]] if output.num_leaves == 1 else list(_items(end.args[0]))
        with graph.inserting_before(end):
            answer = _close(graph, unbox(tree_unflatten(leaves, output)))
        end.args = (answer,)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _items(value: Any) -> Iterator[Any]:
    yield from value


def _positional(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by their parameters' names."""
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    known = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in known if p.kind in kinds][: len(args)]
    names += [f"input_{i}" for i in range(len(names), len(args))]
    return dict(zip(names, args, strict=True))


def _open(graph: fx.Graph, node: fx.Node, value: Any, flat: Iterator[fx.Node]) -> Any:
    """Replaces the flat placeholders of an argument by what is in it.

    Returns what the node holds: the recorded values of the tensors in their container.
    """
    if isinstance(value, Tensor):
        old = next(flat)
        node.meta = dict(old.meta)
        old.replace_all_uses_with(node)
        graph.erase_node(old)
        return node.meta.get("val")
    if not isinstance(value, Mapping | tuple | list):
        return value
    items: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
    found = {}
    for key, item in items:
        inner = isinstance(item, Tensor | tuple | list | Mapping)
        part = graph.call_function(operator.getitem, (node, key)) if inner else None
        found[key] = item if part is None else _open(graph, part, item, flat)
    mapping = isinstance(value, Mapping)
    node.meta["val"] = found if mapping else list(found.values())
    return node.meta["val"]


def _close(graph: fx.Graph, value: Any) -> Any:
    """An output with its nodes in it, as an argument of the output node."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | fx.Node):
        fields = [f.name for f in dataclasses.fields(value)]
        parts = {name: _close(graph, getattr(value, name)) for name in fields}
        return graph.call_function(type(value), (), parts)
    if type(value) is dict:
        return {key: _close(graph, item) for key, item in value.items()}
    if isinstance(value, Mapping):
        parts = {str(key): _close(graph, item) for key, item in value.items()}
        return graph.call_function(type(value), (), parts)
    if type(value) in (tuple, list):
        return type(value)(_close(graph, item) for item in value)
    return value
