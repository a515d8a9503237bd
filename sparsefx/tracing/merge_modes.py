"""One graph for both modes, from one recorded in each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import fx


def by_mode(training: bool, train: Any, evaluation: Any) -> Any:
    """A constant that differs by mode: ``train`` while training, else the other."""
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
        pairs = ((a.start, b.start), (a.stop, b.stop), (a.step, b.step))
        return slice(*(_merge(graph, flag, x, y) for x, y in pairs))
    if a is True and b is False:
        return flag
    return graph.call_function(by_mode, (flag, a, b))
