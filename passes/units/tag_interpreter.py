"""Runs a graph once on its example's sizes, and its tags beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.passes.units.tag_rules import by_channel, follow
from sparsefx.passes.units.tag_step import Step
from sparsefx.passes.units.tags import RESULT, Ledger
from sparsefx.torch_internals import hint
from sparsefx.tracing.error_location import cause_of
from sparsefx.tracing.gradient_regions import closed_on_error
from sparsefx.tracing.operations import called

Tags = dict[fx.Node, Any]
Values = dict[Any, Any]


def interpret(graph_module: fx.GraphModule) -> tuple[Ledger, Tags]:
    """Follows every weight's rows through a graph.

    The graph runs on zeros: only sizes matter, and the values of what is an index.

    Returns:
        what was learned, and the tags of each node's value.

    Raises:
        CaptureError: an input carries no recorded value.
    """
    ledger = Ledger()
    tags: Tags = {}

    def visit(node: fx.Node, values: Values) -> None:
        ledger.where = node.name
        tags[node] = _tags(graph_module, node, values, tags, ledger)

    run_on_zeros(graph_module, visit)
    ledger.where = RESULT
    for used in graph_module.graph.output_node().all_input_nodes:
        if isinstance(tags[used], Tensor):
            ledger.stick(tags[used])
    return ledger, tags


def run_on_zeros(
    graph_module: fx.GraphModule, visit: Callable[[fx.Node, Values], None]
) -> None:
    """Runs a graph on zeros of the recorded sizes.

    Args:
        graph_module: the graph.
        visit: is told each node and the values that are still in use, with its own.

    Raises:
        CaptureError: an input carries no recorded value, or a node does not run.
    """
    inputs = [_zeros_like(n) for n in graph_module.graph.nodes if n.op == "placeholder"]
    with torch.no_grad(), closed_on_error():
        _Visitor(graph_module, visit).run(*inputs)


class _Visitor(fx.Interpreter):
    """Runs a graph, and tells somebody else each value while it is in use."""

    def __init__(
        self, module: fx.GraphModule, visit: Callable[[fx.Node, Values], None]
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.visit = visit

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise CaptureError(
                f"{n.name} of {n.meta.get('module') or 'the root module'!r} "
                f"does not run on zeros of the example's sizes: {cause_of(error)}"
            ) from error
        if n.op != "output":
            self.env[n] = value
            self.visit(n, self.env)
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0]  # recorded leaves are norms and dropouts, which keep the shape


def _zeros_like(node: fx.Node) -> Tensor:
    example = node.meta.get("val")
    if not isinstance(example, Tensor):
        raise CaptureError(
            f"input {node.name} has no recorded value; use a graph of sparsefx.capture"
        )
    sizes = [hint(size) for size in example.shape]
    return torch.zeros(sizes, dtype=example.dtype, device=_device(example))


def _device(example: Tensor) -> torch.device:
    return torch.device(getattr(example, "fake_device", example.device))


def _tags(
    graph_module: fx.GraphModule,
    node: fx.Node,
    values: Values,
    tags: Tags,
    ledger: Ledger,
) -> Any:
    value = values[node]
    if node.op == "get_attr":
        if isinstance(value, Tensor) and value.ndim > 0:
            return ledger.parameter(str(node.target), value)
        return _zeros(value)
    if node.op == "placeholder":
        return torch.zeros((), dtype=torch.int64).expand(value.shape)

    def tagged(used: fx.Node) -> Any:
        found = tags.get(used)
        return values[used] if found is None else found

    def plain(used: fx.Node) -> Any:
        found = values[used]
        return found.cpu() if isinstance(found, Tensor) else found

    shape = value.shape if isinstance(value, Tensor) else torch.Size()
    step = Step(
        node,
        called(node),
        fx.node.map_arg(node.args, tagged),
        fx.node.map_arg(node.kwargs, tagged),
        fx.node.map_arg(node.args, plain),
        fx.node.map_arg(node.kwargs, plain),
        shape,
        ledger,
    )
    if node.op == "call_module":
        return _module(graph_module, step)
    if not isinstance(value, (Tensor, tuple, list)) or not _holds_tensor(value):
        return None
    if isinstance(value, (tuple, list)):
        found = follow(step)
        if isinstance(found, (tuple, list)):
            return found
        return [_zeros(item) for item in value]
    return follow(step) if step.tensors() else _zeros(value)


def _zeros(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    return torch.zeros((), dtype=torch.int64).expand(value.shape)


def _holds_tensor(value: Any) -> bool:
    items = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(item, Tensor) for item in items)


def _module(graph_module: fx.GraphModule, step: Step) -> Any:
    path = str(step.node.target)
    module = graph_module.get_submodule(path)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        owned = [
            step.ledger.parameter(f"{path}.{name}", value)
            for name, value in (*module._parameters.items(), *module._buffers.items())
            if isinstance(value, Tensor) and value.ndim == 1
        ]
        return by_channel(step, owned)
    if any(True for _ in module.parameters()):
        return step.stuck(f"{path} is a module that is not recorded down to weights")
    return step.args[0]
