"""A recorded graph as a module of its own, which torch alone can load and run."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.tracing.gradient_regions import enter_region, leave_region
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
    _drop_unread(graph)
    root = nn.Module()
    made: dict[int, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            path, _, leaf = str(node.target).rpartition(".")
            owner = _container(root, source, path)
            value = _found(source, str(node.target))
            if not isinstance(value, Tensor):
                if leaf != "training":  # the container has that flag of its own
                    setattr(owner, leaf, value)
                continue
            if id(value) not in made:
                made[id(value)] = _own(value, sliced(str(node.target), value.detach()))
            new = made[id(value)]
            if isinstance(new, nn.Parameter):
                owner.register_parameter(leaf, new)
            elif leaf not in owner._buffers:
                persistent = _persistent(source, path, leaf)
                owner.register_buffer(leaf, new, persistent=persistent)
        elif node.op == "call_module":
            path, _, leaf = str(node.target).rpartition(".")
            owner = _container(root, source, path)
            if leaf not in owner._modules:
                module = source.get_submodule(str(node.target))
                owner._modules[leaf] = _resized(module, str(node.target), sliced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # get_attr of a flag is intended
        module = fx.GraphModule(root, graph, name)
    module.training = source.training
    return module


def _found(source: nn.Module, target: str) -> Any:
    found: Any = source
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _container(root: nn.Module, source: nn.Module, path: str) -> nn.Module:
    """The module at a path of the new tree, made with its mode where it is missing."""
    for part in path.split(".") if path else ():
        source = getattr(source, part)
        if part not in root._modules:
            child = nn.Module()
            child.training = source.training
            root.add_module(part, child)
        root = root.get_submodule(part)
    return root


def _persistent(source: nn.Module, path: str, leaf: str) -> bool:
    owner: Any = source
    for part in path.split(".") if path else ():
        owner = getattr(owner, part)
    real = owner.__dict__.get("_real", owner)
    return leaf in real._buffers and leaf not in real._non_persistent_buffers_set


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
            value = _found(source, str(node.target))
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


def _drop_unread(graph: fx.Graph) -> None:
    """Copies made only while training, and flags, that nothing reads any more."""
    for node in reversed(list(graph.nodes)):
        if not node.users and (node.op == "get_attr" or node.target == "clone"):
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
