"""One call while tags are followed, and the joining of entries that calls combine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.passes.units.tags import FREE, Aligned, Ledger, compact, pairs


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call: its arguments as tags, and as values for indices; its result."""

    node: fx.Node
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    real: tuple[Any, ...]
    named: Mapping[str, Any]
    shape: torch.Size
    ledger: Ledger

    def tensors(self) -> list[Tensor]:
        """The tags among the arguments."""
        found: list[Tensor] = []
        fx.node.map_aggregate(
            (self.args, dict(self.kwargs)),
            lambda x: found.append(x) if isinstance(x, Tensor) else None,
        )
        return found

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def source(self, position: int, name: str) -> fx.Node:
        """The node of an argument."""
        args, kwargs = self.node.args, self.node.kwargs
        found = args[position] if len(args) > position else kwargs[name]
        assert isinstance(found, fx.Node)
        return found

    def free(self) -> Tensor:
        """A result that belongs to nobody."""
        return torch.zeros((), dtype=torch.int64).expand(self.shape)

    def stuck(self, why: str = "") -> Tensor:
        """An operation that nothing is known of: none of its inputs can be removed."""
        why = why or f"{self.name} is used in a way no rule for units knows"
        for tags in self.tensors():
            self.ledger.stick(tags, f"{self.node.name}: {why}")
        return self.free()


def join_all(step: Step, parts: Sequence[Tensor]) -> Tensor:
    """Entries that one operation combines: their variables are joined."""
    ledger, out = step.ledger, step.free()
    if len(parts) == 1 and parts[0].shape == step.shape:
        return parts[0]
    spread = [part.expand(step.shape) for part in parts]
    for tags in spread:  # a variable speaks before a parameter, that before none
        better = (out == FREE) | ((out < 0) & (tags > 0))
        out = tags if bool(better.all()) else torch.where(better, tags, out)
    for part, tags in zip(parts, spread, strict=True):
        ledger.join(tags, out)
        bind(ledger, tags, out)
        if part.numel() > 1 and tags is not out:
            ledger.aligned.append(Aligned(step.node, part, out))
    return out


def bind(ledger: Ledger, tags: Tensor, out: Tensor) -> None:
    """Parameter entries that meet variables go with them."""
    if tags is out or not bool((compact(tags) < 0).any()):
        return
    owned = pairs(tags, out, lambda x, y: (x < 0) & (y > 0))
    if owned.numel():
        ledger.bound.append((owned[0], owned[1]))
    other = pairs(tags, out, lambda x, y: (x < 0) & (y < 0) & (x != y))
    ledger.freeze(other)
