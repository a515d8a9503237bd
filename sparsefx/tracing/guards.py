"""What a recorded graph takes for granted about the module tree it is bound to.

A graph is Python that ran once. Whatever that Python may have read, and a caller may
change, is compared before each run; where it differs, the module's own Python runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.tracing.node_values import attribute

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
_MASKED = ("_sparsefx", "_sparsefx_index", "_sparsefx_masks", "_sparsefx_program")
_OWN = {*vars(nn.Module()), *_MASKED}

# by path of a module, or of an object it holds: names and plain values
Noted = Mapping[tuple[str, str], Mapping[str, Any]]


def noted(root: nn.Module) -> Noted:
    """The plain attributes of all modules, and of the objects they hold (a config).

    Example:
        >>> noted(nn.Dropout(0.25))[("", "")]["p"]
        0.25
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    seen: set[int] = set()
    for path, module in root.named_modules():
        table = vars(module)
        found[path, ""] = _plain(table)
        for name, value in table.items():
            if _is_object(value) and id(value) not in seen:
                seen.add(id(value))
                found[path, name] = _plain(vars(value))
    return found


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copy(value)
        for name, value in table.items()
        if name not in _OWN and _is_plain(value)
    }


def _copy(value: Any) -> Any:
    kinds = (list, dict, set)
    return value.copy() if isinstance(value, kinds) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set)):
        return len(value) <= 64 and all(isinstance(item, _PLAIN) for item in value)
    if type(value) is dict:
        return len(value) <= 64 and all(isinstance(v, _PLAIN) for v in value.values())
    return isinstance(value, _PLAIN)


def _is_object(value: Any) -> bool:
    odd = (nn.Module, Tensor, type, torch.Generator)
    return (
        not isinstance(value, odd)
        and not callable(value)
        and hasattr(value, "__dict__")
    )


@dataclass(frozen=True, slots=True)
class Guards:
    """Live tables of a module tree, and what they must hold.

    Attributes:
        hooks: tables of submodules' hooks, which a graph would not call.
        children: tables of submodules, and what they held.
        callers: modules whose mode the graph reads in the place of one another.
        mode: the mode those must be in, or None for any one.
        tables: attribute tables, a reader of the noted names, and their values.
        tensors: readers of tensors, and their shape, type and device.
    """

    hooks: tuple[Mapping[Any, Any], ...] = ()
    children: tuple[tuple[Mapping[str, Any], tuple[Any, ...]], ...] = ()
    callers: tuple[nn.Module, ...] = ()
    mode: bool | None = None
    tables: tuple[tuple[Mapping[str, Any], itemgetter[Any], Any], ...] = ()
    tensors: tuple[tuple[Callable[[], Any], tuple[Any, ...]], ...] = ()

    @classmethod
    def of(
        cls, root: nn.Module, graph: fx.Graph, values: Noted, mode: bool | None
    ) -> Guards:
        """The guards of a graph on ``root``, with the attributes noted before."""
        modules = list(root.modules())
        tables = []
        for (path, name), known in values.items():
            table = vars(root.get_submodule(path))
            table = vars(table[name]) if name else table
            if known:
                read: itemgetter[Any] = itemgetter(*known)
                wanted = tuple(known.values())
                tables.append((table, read, wanted if len(known) > 1 else wanted[0]))
        return cls(
            # the root's own hooks run around the graph
            tuple(h for m in modules[1:] for h in hooks_of(m)),
            tuple((m._modules, tuple(m._modules.values())) for m in modules),
            tuple(_callers(root, graph, mode)),
            mode,
            tuple(tables),
            tuple(_tensors(root, graph)),
        )

    def hold(self) -> bool:
        """No hooks, the same submodules and attributes, and one mode."""
        return (
            not any(self.hooks)
            and all(tuple(table.values()) == held for table, held in self.children)
            and self._modes_hold()
            and self._attributes_hold()
        )

    def _modes_hold(self) -> bool:
        modes = {module.training for module in self.callers}
        return modes == {self.mode} if self.mode is not None else len(modes) <= 1

    def _attributes_hold(self) -> bool:
        try:
            same = all(read(table) == wanted for table, read, wanted in self.tables)
        except KeyError:
            return False
        return same and all(described(read()) == want for read, want in self.tensors)


def described(value: Any) -> tuple[Any, ...] | None:
    """Shape, type and device of a tensor; None for anything else."""
    if not isinstance(value, Tensor):
        return None
    return tuple(value.shape), value.dtype, value.device


def hooks_of(module: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    """The tables of hooks that calling a module runs."""
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def _callers(root: nn.Module, graph: fx.Graph, mode: bool | None) -> list[nn.Module]:
    if mode is not None:  # any of them may be why there are two graphs
        leaves = {str(n.target) for n in graph.nodes if n.op == "call_module"}
        return [m for path, m in root.named_modules() if not _below(path, leaves)]
    flags = [
        str(n.target).rpartition(".")[0]
        for n in graph.nodes
        if n.op == "get_attr" and str(n.target).split(".")[-1] == "training"
    ]
    paths = {part for flag in flags for part in _prefixes(flag)}
    return [root.get_submodule(path) for path in sorted(paths)]


def _below(path: str, leaves: set[str]) -> bool:
    return any(part in leaves for part in _prefixes(path))


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".") if path else []
    yield from (".".join(parts[:end]) for end in range(len(parts) + 1))


def _tensors(
    root: nn.Module, graph: fx.Graph
) -> Iterator[tuple[Callable[[], Any], tuple[Any, ...]]]:
    """Buffers and plain attributes: Python may make, drop or replace them."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op != "get_attr" or not isinstance(value, Tensor):
            continue
        path, _, name = str(node.target).rpartition(".")
        if path.split(".")[0] == "_sparsefx":
            continue
        module = root.get_submodule(path)
        if name not in module._parameters:
            read = functools.partial(attribute, module, name)
            if name in module._buffers:
                read = functools.partial(module._buffers.get, name)
            shape = tuple(int(s) for s in node.meta.get("shape", value.shape))
            yield read, (shape, value.dtype, value.device)
