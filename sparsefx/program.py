"""A recorded graph bound to the module it stands for, with its guards.

The graph is compiled into a `torch.fx.GraphModule` whose parameter and buffer
dictionaries *are* those of the original modules, so it sees every later `.to()`,
in-place update or re-binding, while masked modules' properties stay out of its way.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from sparsefx.private import TreeSpec, tree_flatten, tree_unflatten

if TYPE_CHECKING:
    import sympy


class _View(nn.Module):
    """One level of the module tree as graphs see it: raw tensors, live flags."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.__dict__["_real"] = real
        self.__dict__["_parameters"] = real._parameters
        self.__dict__["_buffers"] = real._buffers

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_real"], name)


def _follow(real: nn.Module) -> property:
    return property(lambda _: real.training, lambda _, flag: None)


def _view(root: nn.Module, targets: Sequence[tuple[str, str]]) -> _View:
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
    return top


def bind(graph: fx.Graph, root: nn.Module) -> fx.GraphModule:
    """Compiles ``graph`` over the live tensors of ``root``.

    Example:
        >>> from torch import fx
        >>> layer = nn.Linear(2, 2)
        >>> bound = bind(fx.symbolic_trace(layer).graph, layer)
        >>> bound.weight is layer.weight
        True
    """
    nodes = [n for n in graph.nodes if n.op in ("get_attr", "call_module")]
    view = _view(root, [(n.op, n.target) for n in nodes])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # get_attr of a flag is intended
        bound = fx.GraphModule(view, graph, type(root).__name__)
    bound.__dict__["_parameters"] = view._parameters
    bound.__dict__["_buffers"] = view._buffers
    bound.__dict__["_modules"] = view._modules
    bound.__dict__.pop("training", None)
    type(bound).training = _follow(root)  # type: ignore[assignment, method-assign]
    return bound


class Program:
    """A graph, the calls it is valid for, and the module it belongs to.

    Attributes:
        graph: the fx graph (one for both modes).
        min_batch: the smallest batch the graph was proved for.
    """

    def __init__(
        self,
        graph: fx.Graph,
        inputs: TreeSpec | None,
        leaves: Sequence[Any],
        output: TreeSpec | None,
        guards: Sequence[sympy.Basic] = (),
        dynamic: bool = False,
        batch: int | None = None,
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.output = output
        self.guards = tuple(guards)
        self.batch = batch if dynamic else None
        self.min_batch = 1
        self.signature = tuple(_signature(leaf, self.batch) for leaf in leaves)
        self.hooks: tuple[Mapping[Any, Any], ...] = ()
        self._bound: fx.GraphModule | None = None
        self._root: weakref.ref[nn.Module] | None = None
        self._batches: dict[int, bool] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.graph = copy.deepcopy(self.graph)
        twin._bound, twin._root, twin.hooks = None, None, ()
        return twin

    def module(self, root: nn.Module) -> fx.GraphModule:
        """The graph compiled over ``root``'s tensors (kept until it changes)."""
        if self._bound is None or self._root is None or self._root() is not root:
            self._bound, self._root = bind(self.graph, root), weakref.ref(root)
            self.graph = self._bound.graph
            modules = list(root.modules())
            self.hooks = tuple(
                hooks
                for m in modules
                for hooks in (m._forward_hooks, m._forward_pre_hooks)
            )[2:]  # the root's own hooks run around the graph
        return self._bound

    def run(self, root: nn.Module, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """``(True, output)``, or ``(False, None)`` when a guard does not hold."""
        if self.inputs is None:
            if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
                return False, None
            return True, self.module(root)(*args)
        leaves, spec = tree_flatten((args, kwargs))
        if spec != self.inputs or not self.holds(leaves):
            return False, None
        bound = self.module(root)
        if any(self.hooks):
            return False, None
        out = bound(*(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        assert self.output is not None
        many = self.output.num_leaves != 1
        return True, tree_unflatten(list(out) if many else [out], self.output)

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether the graph stands for a call with these leaves."""
        batch: int | None = None
        for leaf, expected in zip(leaves, self.signature, strict=True):
            if not isinstance(leaf, Tensor):
                if type(leaf) is not type(expected) or leaf != expected:
                    return False
                continue
            if not isinstance(expected, tuple):
                return False
            shape, dtype, device = expected
            if leaf.dtype != dtype or leaf.device != device or leaf.ndim != len(shape):
                return False
            for size, wanted in zip(leaf.shape, shape, strict=True):
                if wanted is None:
                    batch = size if batch is None else batch
                if size != (batch if wanted is None else wanted):
                    return False
        return batch is None or self._batch_holds(batch)

    def _batch_holds(self, batch: int) -> bool:
        if batch not in self._batches:
            symbols = {s for guard in self.guards for s in guard.free_symbols}
            values = dict.fromkeys(symbols, batch)
            proved = batch >= self.min_batch
            self._batches[batch] = proved and all(
                bool(guard.subs(values)) for guard in self.guards
            )
        return self._batches[batch]


def _signature(leaf: Any, batch: int | None) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    shape: list[int | None] = list(leaf.shape)
    if shape and batch is not None and shape[0] == batch:
        shape[0] = None
    return tuple(shape), leaf.dtype, leaf.device


def by_mode(training: bool, train: Any, evaluation: Any) -> Any:
    """``train`` while training, else ``evaluation``: a constant that differs by mode."""
    return train if training else evaluation


def merge_modes(train: fx.Graph, evaluation: fx.Graph) -> str | None:
    """Makes ``train`` serve both modes; returns the module that prevents it, or None.

    Nodes are compared one by one. A constant that is ``True`` while training and
    ``False`` after becomes the owning module's ``training`` flag, any other
    difference of constants a ``by_mode`` node; a difference of structure is
    reported by the path of the module that runs it.
    """
    first, second = list(train.nodes), list(evaluation.nodes)
    twin: dict[fx.Node, fx.Node] = {}
    edits: list[tuple[fx.Node, Any, Any]] = []
    for a, b in zip(first, second, strict=False):
        twin[b] = a
        same = a.op == b.op and a.target == b.target
        args = _diff((a.args, a.kwargs), (b.args, b.kwargs), twin) if same else None
        if args is None:
            return str(a.meta.get("module", ""))
        if args:
            edits.append((a, (a.args, a.kwargs), (b.args, b.kwargs)))
    if len(first) != len(second):
        return ""
    for node, (args, kwargs), (other_args, other_kwargs) in edits:
        path = node.meta.get("module", "")
        with train.inserting_before(node), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flag = train.get_attr(f"{path}.training" if path else "training")
            flag.meta["module"] = path
            node.args = _merge(train, flag, args, other_args)
            node.kwargs = _merge(train, flag, kwargs, other_kwargs)
    return None


def _diff(a: Any, b: Any, twin: Mapping[fx.Node, fx.Node]) -> bool | None:
    """False if equal, True if constants differ, None if the structure does."""
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return False if isinstance(b, fx.Node) and twin.get(b) is a else None
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        if len(a) != len(b):
            return None
        parts = [_diff(x, y, twin) for x, y in zip(a, b, strict=True)]
        return None if None in parts else any(parts)
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return None
        parts = [_diff(a[k], b[k], twin) for k in a]
        return None if None in parts else any(parts)
    if isinstance(a, slice) and isinstance(b, slice):
        return _diff((a.start, a.stop, a.step), (b.start, b.stop, b.step), twin)
    return bool(type(a) is not type(b) or a != b)


def _merge(graph: fx.Graph, flag: fx.Node, a: Any, b: Any) -> Any:
    if isinstance(a, fx.Node):
        return a
    if isinstance(a, (tuple, list)):
        return type(a)(_merge(graph, flag, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return {key: _merge(graph, flag, a[key], b[key]) for key in a}
    if type(a) is type(b) and a == b:
        return a
    if isinstance(a, slice):
        return a
    if (a, b) == (True, False):
        return flag
    return graph.call_function(by_mode, (flag, a, b))
