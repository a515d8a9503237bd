"""Tags: for every entry of every value of a graph, the weight row that it came from.

A tag is an integer a value's entry carries: 0 for an entry that belongs to no row of a
weight, a positive number (a *variable*) for an entry that stands or falls with a row,
a negative one for an entry of a parameter itself. What moves data moves tags with it,
so that any layout of heads is followed; what joins entries joins their variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

FREE = 0
STUCK = 1  # the variable of all that can never be removed
RESULT = "the model's result"  # what joins the values that a graph returns


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Two tags that one operation joins entry by entry, with broadcasting."""

    node: fx.Node
    operand: Tensor
    result: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Consumed:
    """A weight's dimension that multiplies an input: columns, and whose they are."""

    node: fx.Node
    source: fx.Node
    dim: int
    parameter: str
    parameter_dim: int
    variables: Tensor


def compact(tags: Tensor) -> Tensor:
    """One entry along dimensions that a tensor repeats."""
    at = tuple(slice(0, 1) if s == 0 else slice(None) for s in tags.stride())
    return tags[at]


def pairs(a: Tensor, b: Tensor, where: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The distinct pairs of entries, (2, n), for which ``where`` holds."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = a.expand(shape), b.expand(shape)
    strides = zip(a.stride(), b.stride(), strict=True)
    at = tuple(slice(0, 1) if x == y == 0 else slice(None) for x, y in strides)
    a, b = a[at], b[at]
    real = where(a, b)
    found = torch.stack([a[real], b[real]])
    low = int(found.min()) if found.numel() else 0
    keys = torch.unique((found[0] - low) * 2**31 + (found[1] - low))
    return torch.stack([(keys >> 31) + low, (keys & (2**31 - 1)) + low])


@dataclass(slots=True)
class Ledger:
    """All that is learned of a graph's variables while it is interpreted.

    Attributes:
        where: the node that is looked at; joins are its doing.
        edges: joined variables, (2, n) each, and beside them who joined them.
    """

    variables: int = 2
    where: str = ""
    edges: list[Tensor] = field(default_factory=list)
    joiners: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, torch.Size]] = field(default_factory=dict)
    entries: int = 0
    rows: dict[tuple[str, int], int] = field(default_factory=dict)
    bound: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)
    consumed: list[Consumed] = field(default_factory=list)
    aligned: list[Aligned] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    convolved: set[tuple[str, int]] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def parameter(self, name: str, value: Tensor) -> Tensor:
        """Tags of a parameter's entries: -1, -2, ... in the order of all parameters."""
        if name not in self.shapes:
            self.shapes[name] = (self.entries, value.shape)
            self.entries += value.numel()
        base, shape = self.shapes[name]
        return -1 - torch.arange(base, base + value.numel()).reshape(shape)

    def locate(self, tag: int) -> tuple[str, tuple[int, ...]]:
        """The parameter and the index behind a negative tag."""
        entry = -1 - tag
        for name, (base, shape) in self.shapes.items():
            if base <= entry < base + math.prod(shape):
                index, found = entry - base, []
                for size in reversed(shape):
                    found.append(index % size)
                    index //= size
                return name, tuple(reversed(found))
        raise AssertionError(tag)

    def row_variables(self, name: str, dim: int) -> Tensor:
        """One variable for each index of a weight's dimension."""
        size = self.shapes[name][1][dim]
        if (name, dim) not in self.rows:
            self.rows[name, dim] = self.variables
            self.variables += size
        base = self.rows[name, dim]
        return torch.arange(base, base + size)

    def join(self, a: Tensor, b: Tensor) -> None:
        """Entries of both stand or fall together; where one has no variable, not."""
        if a is b:
            return
        found = pairs(a, b, lambda x, y: (x > 0) & (y > 0) & (x != y))
        if found.numel():
            self._joined(found)

    def _joined(self, edges: Tensor) -> None:
        self.edges.append(edges)
        self.joiners.append(self.where)

    def stick(self, tags: Tensor, why: str = "") -> None:
        """Nothing in ``tags`` can be removed by itself."""
        found = torch.unique(tags[tags > STUCK])
        if found.numel():
            self._joined(torch.stack([found, torch.full_like(found, STUCK)]))
            for variable in found.tolist() if why else ():
                self.reasons.setdefault(variable, why)
        self.freeze(tags)

    def freeze(self, tags: Tensor) -> None:
        """Parameter entries that are used in a way that cannot be sliced."""
        found = tags[tags < 0]
        if found.numel():
            self.frozen.append(torch.unique(found))

    def unknown(self) -> dict[str, str]:
        """Parameters whose rows meet what no rule knows, and the reason."""
        found = {}
        for (name, dim), base in self.rows.items() if self.reasons else ():
            own = range(base, base + self.shapes[name][1][dim])
            why = next((self.reasons[v] for v in own if v in self.reasons), None)
            if why is not None:
                found[name] = why
        return found

    def merge(self, tags: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Joins entries along dimensions; returns one tag for each line of them."""
        if not dims or tags.ndim == 0:
            return tags
        line = tags.amax(dims, keepdim=True)
        self.join(tags, line)
        mixed = (tags == FREE) & (line > 0)
        if bool(mixed.any()):
            self.stick(line.expand_as(tags)[mixed])
        if bool((tags < 0).any()):
            self.freeze(tags)
            line = line.clamp(min=FREE)
        return line

    def classes(self) -> Tensor:
        """The smallest variable that each variable is joined with, directly or not."""
        label = torch.arange(self.variables)
        if not self.edges:
            return label
        a, b = torch.cat(self.edges, 1)
        while True:
            least = torch.minimum(label[a], label[b])
            fresh = label.scatter_reduce(0, a, least, "amin")
            fresh = fresh.scatter_reduce(0, b, least, "amin")
            # also the ends that the labels point to, so that long chains close fast
            fresh = fresh.scatter_reduce(0, label[a], least, "amin")
            fresh = fresh.scatter_reduce(0, label[b], least, "amin")
            fresh = fresh[fresh]
            if torch.equal(fresh, label):
                return label
            label = fresh
