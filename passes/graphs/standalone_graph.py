"""A recorded graph as a module of its own, which torch alone can load and run."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.tracing.gradient_regions import enter_region, leave_region
from sparsefx.tracing.graph_module import assembled, held_by
from sparsefx.tracing.merge_modes import by_mode

Slice = Callable[[str, Tensor], Tensor]


def plain_graph(
    graph: fx.Graph, source: nn.Module, sliced: Slice, name: str = "Plain"
) -> fx.GraphModule:
    """A GraphModule that owns its tensors and calls torch only.

    Args:
        graph: a graph that nobody else uses; it is rewritten.
        source: where its tensors and modules are found.
        sliced: gives a tensor's new value from its name and its old value.
        name: of the class.

    Raises:
        CaptureError: a region of the graph switches gradients or autocast around
            something that is trained.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> graph = fx.symbolic_trace(layer).graph
        >>> own = plain_graph(graph, layer, lambda name, value: value)
        >>> own.weight is layer.weight, bool((own.weight == layer.weight).all())
        (False, True)
    """
    _choose_by_flag(graph)
    _drop_regions(graph, source)
    made: dict[int, Any] = {}
    held = held_by(source, graph)
    for path, value in held.items():
        if isinstance(value, Tensor) and id(value) not in made:
            made[id(value)] = _own(value, sliced(path, value.detach()))
        elif isinstance(value, nn.Module) and id(value) not in made:
            made[id(value)] = _resized(value, path, sliced)
        held[path] = made.get(id(value), value)
    return assembled(graph, held, source, name)


def _own(value: Tensor, data: Tensor) -> Tensor:
    data = data.clone().contiguous()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(data, requires_grad=value.requires_grad)
    return data


def _resized(module: nn.Module, path: str, sliced: Slice) -> nn.Module:
    """A copy of a norm or a dropout with its tensors sliced."""
    own = copy.deepcopy(module)
    for names in (own._parameters, own._buffers):
        for leaf, value in names.items():
            if isinstance(value, Tensor) and value.ndim:
                new = sliced(f"{path}.{leaf}", value.detach())
                if isinstance(own, nn.modules.batchnorm._NormBase):
                    own.num_features = new.shape[0]
                setattr(own, leaf, _own(value, new))
    return own


def _choose_by_flag(graph: fx.Graph) -> None:
    """A constant that differs by mode is picked out of a pair by the mode."""
    for node in graph.nodes:
        if node.target is by_mode:
            flag, train, evaluation = node.args
            node.target, node.args = operator.getitem, ((evaluation, train), flag)


def _drop_regions(graph: fx.Graph, source: nn.Module) -> None:
    """Regions without gradients, around what has none anyway, need not be marked."""
    learns: set[fx.Node] = set()
    entered: list[fx.Node] = []
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(source)
            if isinstance(value, Tensor) and value.requires_grad:
                learns.add(node)
        elif node.target is enter_region:
            entered.append(node)
        elif node.target is leave_region:
            _check_region(node, entered.pop(), learns)
        elif any(used in learns for used in node.all_input_nodes):
            learns.add(node)
    for node in reversed(list(graph.nodes)):
        if node.target in (leave_region, enter_region):
            graph.erase_node(node)


def _check_region(leave: fx.Node, enter: fx.Node, learns: set[fx.Node]) -> None:
    kind, *options = enter.args
    inside, node = [], enter.next
    while node is not leave:
        inside.append(node)
        node = node.next
    if kind == "autocast" and options[2:3] != [False]:
        raise CaptureError(
            f"module {enter.meta.get('module')!r} switches autocast on by itself, "
            "which a plain graph cannot hold"
        )
    if kind != "autocast" and learns.intersection(inside):
        raise CaptureError(
            f"module {enter.meta.get('module')!r} switches gradients off around "
            "parameters that are trained; freeze them with requires_grad_(False), "
            "or leave the structure as it is"
        )
