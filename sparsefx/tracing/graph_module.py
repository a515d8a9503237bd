"""The one place where a graph becomes a module: over live tensors, or with its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Set
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.tracing.gradient_regions import enter_region, leave_region
from sparsefx.tracing.node_values import attribute


def has_effect(node: fx.Node) -> bool:
    """Whether a node stays even where nothing reads it.

    Example:
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> has_effect(x), has_effect(graph.call_method("add", (x, 1)))
        (True, False)
        >>> has_effect(graph.call_method("add_", (x, 1)))
        True
    """
    if node.op in ("placeholder", "output"):
        return True
    name = getattr(node.target, "__name__", str(node.target))
    in_place = name.endswith("_") and not name.startswith("_")
    called = node.op in ("call_function", "call_method")
    return called and (
        node.target in (enter_region, leave_region) or name == "setitem" or in_place
    )


def held_by(root: fx.GraphModule | nn.Module, graph: Any = None) -> dict[str, Any]:
    """What a graph's nodes read from a module, by name.

    Args:
        root: the module.
        graph: its own graph if None.

    Example:
        >>> sorted(held_by(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))))
        ['0']
    """
    read: Any = root.graph if graph is None else graph
    named = (str(n.target) for n in read.nodes if n.op in ("get_attr", "call_module"))
    return {name: attrgetter(name)(root) for name in named}


def assembled(
    graph: fx.Graph,
    held: Mapping[str, Any],
    like: nn.Module | None = None,
    name: str = "GraphModule",
) -> fx.GraphModule:
    """A graph module that holds what its nodes read, and no more.

    Args:
        graph: nodes that nothing reads are dropped from it.
        held: tensors, modules and plain values by the names that nodes read; what is
            one tensor under two names stays one.
        like: says in which mode each part is, and which buffers are saved with it;
            training, and all of them, where it knows nothing.
        name: of the class.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> made = assembled(fx.symbolic_trace(layer).graph, {"weight": layer.weight,
        ...                                                   "bias": layer.bias})
        >>> sorted(made.state_dict())
        ['bias', 'weight']
    """
    graph.owning_module = None  # whose names are others
    graph.eliminate_dead_code(has_effect)
    root = nn.Module()
    root.training = like is None or like.training
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            place(root, str(node.target), held[str(node.target)], like)
    made = _module(root, graph, name)
    made._modules.update(root._modules)  # torch copies containers without their modes
    made._non_persistent_buffers_set |= root._non_persistent_buffers_set
    made.graph.lint()
    return made


def _module(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # get_attr of a flag is intended
        return fx.GraphModule(root, graph, name)


def place(
    root: nn.Module, target: str, value: Any, like: nn.Module | None = None
) -> None:
    """Puts a tensor, a module or a plain value under a dotted name.

    Example:
        >>> root = nn.Module()
        >>> place(root, "a.weight", nn.Parameter(torch.ones(2)))
        >>> [name for name, _ in root.named_parameters()]
        ['a.weight']
    """
    *path, leaf = target.split(".")
    for part in path:
        like = getattr(like, part, None)
        if part not in root._modules:
            root.add_module(part, nn.Module())
            root._modules[part].training = getattr(like, "training", True)  # type: ignore[union-attr]
        root = root.get_submodule(part)
    if isinstance(value, nn.Module):
        root._modules[leaf] = value
    elif isinstance(value, nn.Parameter):
        root._parameters[leaf] = value
    elif isinstance(value, Tensor):
        known = getattr(like, "__dict__", {}).get("_real", like)
        passing = getattr(known, "_non_persistent_buffers_set", ())
        plain = known is not None and leaf not in known._buffers
        root.register_buffer(leaf, value, persistent=not plain and leaf not in passing)
    elif leaf != "training":  # each container has that flag of its own
        setattr(root, leaf, value)


class _View(nn.Module):
    """One level of the module tree as graphs see it: raw tensors, live flags."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.__dict__["_real"] = real
        self.__dict__["_read"] = set()  # names that the graph reads here
        self.__dict__["_parameters"] = real._parameters
        self.__dict__["_buffers"] = real._buffers

    def __getattr__(self, name: str) -> Any:
        return _raw(self, self.__dict__["_real"], name, self.__dict__["_read"])


def _raw(view: nn.Module, real: nn.Module, name: str, read: Set[str]) -> Any:
    """A raw tensor, a submodule, or a plain attribute as it is now."""
    try:
        return nn.Module.__getattr__(view, name)
    except AttributeError:
        if name.startswith("__"):
            raise
        found = attribute(real, name) if "[" in name else getattr(real, name, None)
        if found is None and name not in read:
            raise
        # a cache that is not made yet: the guards keep the graph from reading it
        return torch.empty(0) if found is None else found


def _follow(real: nn.Module) -> property:
    return property(lambda _: real.training, lambda _, flag: None)


def _view(root: nn.Module, targets: Iterable[tuple[str, str]]) -> _View:
    """A tree of views that resolves ``(op, target)`` pairs on ``root``."""

    def make(real: nn.Module) -> _View:
        kind = type("View", (_View,), {"training": _follow(real)})
        view: _View = kind(real)
        return view

    top = make(root)
    for op, target in targets:
        *path, leaf = target.split(".")
        view, real = top, root
        for part in path:
            real = real.get_submodule(part)
            if part not in view._modules:
                view._modules[part] = make(real)
            child = view._modules[part]
            assert isinstance(child, _View)
            view = child
        if op == "call_module":
            view._modules[leaf] = real.get_submodule(leaf)
        view.__dict__["_read"].add(leaf)
    return top


def bind(graph: fx.Graph, root: nn.Module) -> fx.GraphModule:
    """A graph module over the live tensors of ``root``.

    Its parameter and buffer dictionaries *are* those of the original modules, so it
    sees every later `.to()`, in-place update or re-binding, while masked modules'
    properties stay out of its way.

    Example:
        >>> from torch import fx
        >>> layer = nn.Linear(2, 2)
        >>> bound = bind(fx.symbolic_trace(layer).graph, layer)
        >>> bound.weight is layer.weight
        True
    """
    nodes = [n for n in graph.nodes if n.op in ("get_attr", "call_module")]
    view = _view(root, [(n.op, n.target) for n in nodes])
    bound = _module(view, graph, type(root).__name__)
    bound.__dict__["_parameters"] = view._parameters
    bound.__dict__["_buffers"] = view._buffers
    bound.__dict__["_modules"] = view._modules
    kind: Any = type(bound)
    for name in ("training", *(n.target for n in nodes if "." not in n.target)):
        bound.__dict__.pop(name, None)  # what GraphModule copied: it must stay live
    kind.training = _follow(root)
    read = view.__dict__["_read"]
    kind.__getattr__ = lambda self, name: _raw(self, root, name, read)
    return bound
