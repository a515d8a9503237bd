"""A graph with tensors and modules of its own, for rewrites that change their sizes."""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.passes.graphs.node_writer import value_of
from sparsefx.torch_internals import FakeTensor, fake_mode, hint
from sparsefx.tracing.capture import capture
from sparsefx.tracing.graph_module import assembled, held_by
from sparsefx.tracing.preserve import in_eval
from sparsefx.tracing.recorder import is_leaf
from sparsefx.tracing.symbolic_inputs import check_any_batch, on_fakes

_SAME_SHAPE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout)


class NodeError(CaptureError):
    """A node of a rewritten graph does not run; ``node`` is its name."""

    def __init__(self, node: str, message: str) -> None:  # noqa: D107
        super().__init__(message)
        self.node = node


def own_graph(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph that shares no tensor with the model it was recorded from.

    Tied parameters stay tied. Layers that are still modules, as
    ``torch.fx.symbolic_trace`` leaves them, are recorded down to their weights.

    Args:
        graph_module: what `sparsefx.capture` recorded, or a traced one on which
            ``ShapeProp`` has run.

    Raises:
        CaptureError: the graph says nothing about the shapes of its inputs, or holds
            for one batch size only.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> found = capture(net, (torch.randn(3, 4),)).graphs[""]
        >>> own = own_graph(found)
        >>> [name for name, _ in own.named_parameters()]
        ['0.weight', '0.bias', '1.weight', '1.bias']
        >>> own.get_parameter("0.weight") is net[0].weight
        False
    """
    graph_module.graph.lint()
    graph_module = _recorded(graph_module)
    check_any_batch(graph_module)
    memo: dict[int, Any] = {}
    held = held_by(graph_module)
    for name, value in held.items():
        if isinstance(value, Tensor) and id(value) not in memo:
            memo[id(value)] = _clone(value)
        elif isinstance(value, nn.Module) and id(value) not in memo:
            memo[id(value)] = copy.deepcopy(value, memo)
        held[name] = memo.get(id(value), value)
    return assembled(copy.deepcopy(graph_module.graph), held, graph_module)


def settle_sizes(graph_module: fx.GraphModule) -> None:
    """Notes values of the example's sizes, none of them symbolic: far quicker to price.

    Raises:
        NodeError: a node does not run on the values before it.
    """
    mode = fake_mode()
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            sizes = [hint(size) for size in value.shape]
            real = torch.empty(sizes, dtype=value.dtype, device=value.device)
            node.meta["val"] = mode.from_tensor(real, static_shapes=True)
    note_values(graph_module)


def note_values(graph_module: fx.GraphModule) -> None:
    """Writes every node's value anew, from those of the inputs.

    Raises:
        NodeError: a node does not run on the values before it.
    """
    values = (n.meta.get("val") for n in graph_module.graph.nodes)
    fakes = [value for value in values if isinstance(value, FakeTensor)]
    mode = fakes[0].fake_mode if fakes else fake_mode()
    twins: dict[int, Tensor] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        if id(value) not in twins:
            twins[id(value)] = mode.from_tensor(value, static_shapes=True)
        return twins[id(value)]

    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(graph_module)
            if isinstance(value, Tensor):
                node.meta["val"] = fake(value)
        elif node.op in ("call_function", "call_method", "call_module"):
            args, kwargs = value_of((node.args, node.kwargs))
            try:
                with on_fakes(mode), torch.no_grad():
                    node.meta["val"] = _run(graph_module, node, args, kwargs, fake)
            except Exception as error:
                text = str(error).strip().splitlines() or [type(error).__name__]
                raise NodeError(
                    node.name,
                    f"node {node.name} of module {node.meta.get('module', '')!r} does "
                    f"not run on the new sizes: {text[0][:200]}",
                ) from error


def _run(
    graph_module: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any, fake: Any
) -> Any:
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "call_function":
        assert callable(node.target)
        return node.target(*args, **kwargs)
    module = graph_module.get_submodule(str(node.target))
    if type(module) in _SAME_SHAPE:
        return args[0]
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    twins = {name: fake(value) for name, value in tensors.items()}
    with in_eval(module):  # shapes are the same, and no statistics are written
        return torch.func.functional_call(module, twins, args, kwargs)


def _recorded(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The graph itself if it is down to weights, else a recording of it."""
    inner = [
        graph_module.get_submodule(str(node.target))
        for node in graph_module.graph.nodes
        if node.op == "call_module"
    ]
    values = [node.meta.get("val") for node in graph_module.graph.nodes]
    placeholders = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    if all(map(is_leaf, inner)) and any(isinstance(v, Tensor) for v in values):
        return graph_module
    inputs = []
    for node in placeholders:
        known = node.meta.get("val", node.meta.get("tensor_meta"))
        if known is None:
            raise CaptureError(
                f"input {node.name} of the graph has no recorded value; give the graph "
                "that sparsefx.capture(model, example_inputs) records, or run "
                "torch.fx.passes.shape_prop.ShapeProp(graph).propagate(x) first"
            )
        shape = tuple(int(size) for size in known.shape)
        inputs.append(torch.zeros(shape, dtype=known.dtype))
    found = capture(graph_module, tuple(inputs))
    if not found.whole or len(found.graphs) > 1:
        reason = next(iter(found.reasons.values()), "its modes run different code")
        raise CaptureError(
            f"the graph cannot be recorded down to its weights ({reason}); rewrites "
            "that change sizes need one graph of the whole model"
        )
    return found.graphs[""]


def _clone(value: Tensor) -> Tensor:
    copied = value.detach().clone()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copied, requires_grad=value.requires_grad)
    return copied
