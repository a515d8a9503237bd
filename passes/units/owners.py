"""Which group and which unit own each entry of a value, once variables are joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsefx.passes.units.tags import Ledger, compact

Division = dict[int, tuple[Tensor, Tensor]]


class Owners:
    """Answers, for tags, which group and unit they belong to.

    Attributes:
        label: the class of each variable.
    """

    def __init__(self, ledger: Ledger, label: Tensor) -> None:  # noqa: D107
        self.ledger, self.label = ledger, label
        self.group_of = torch.full_like(label, -1)
        self.unit_of = torch.full_like(label, -1)
        self._own()

    def name(self, groups: Sequence[Sequence[int]]) -> None:
        """Says which classes are the units of which group, in their order."""
        for index, classes in enumerate(groups):
            labels = torch.tensor(classes)
            self.group_of[labels] = index
            self.unit_of[labels] = torch.arange(len(classes))

    def bindings(self) -> list[tuple[str, int]]:
        """Parameters whose entries go with a class, and the class."""
        names = list(self.ledger.shapes)
        bases = torch.tensor([base for base, _ in self.ledger.shapes.values()])
        real = self.owner >= 0
        place = torch.searchsorted(bases, self.bound[real], right=True) - 1
        both = torch.unique(torch.stack([place, self.owner[real]]), dim=1)
        return [(names[i], one) for i, one in both.T.tolist()]

    def _own(self) -> None:
        """The class that each bound parameter entry goes with; -1 for several."""
        ledger = self.ledger
        ids = [-1 - i for i, _ in ledger.bound]
        self.bound = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int64)
        owners = [self.label[v] for _, v in ledger.bound]
        found = torch.cat(owners) if owners else self.bound
        self.bound, place = torch.unique(self.bound, return_inverse=True)
        top = torch.iinfo(torch.int64).max
        low = torch.full_like(self.bound, top).scatter_reduce(0, place, found, "amin")
        high = torch.full_like(self.bound, -1).scatter_reduce(0, place, found, "amax")
        self.owner = torch.where(low == high, low, -1)
        if ledger.frozen:
            frozen = -1 - torch.cat(ledger.frozen)
            self.owner[torch.isin(self.bound, frozen)] = -1

    def classes_of(self, tags: Tensor) -> Tensor:
        """The class of each tag; -1 where there is none."""
        found = torch.where(tags > 0, self.label[tags.clamp(min=0)], -1)
        if self.bound.numel() and bool((tags < 0).any()):
            entry = (-1 - tags).clamp(min=0)
            place = torch.searchsorted(self.bound, entry.contiguous()).clamp(
                max=self.bound.numel() - 1
            )
            known = (tags < 0) & (self.bound[place] == entry)
            found = torch.where(known, self.owner[place], found)
        return found

    def of(self, tags: Tensor) -> tuple[Tensor, Tensor]:
        """The group and the unit of each tag; -1 for none."""
        return self._named(self.classes_of(tags))

    def _named(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        real, safe = classes >= 0, classes.clamp(min=0)
        group = torch.where(real, self.group_of[safe], -1)
        return group, torch.where(real, self.unit_of[safe], -1)

    def lines(self, variables: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The groups along a line of variables, and who owns what of it."""
        group, unit = self.of(variables)
        for index in present(group):
            yield index, torch.where(group == index, unit, -1)

    def divide(self, tags: Tensor) -> tuple[Division, set[int]]:
        """How units divide a value, by dimension; and groups that do not divide it."""
        found: Division = {}
        lost: set[int] = set()
        for classes in self._views(compact(tags)):
            group, unit = self._named(classes)
            for index in present(group):
                own = torch.where(group == index, unit, -1)
                dim = slab_dim(own)
                if dim is None:
                    lost.add(index)
                    continue
                line = own.movedim(dim, 0).reshape(own.shape[dim], -1)[:, 0]
                empty = torch.full_like(line, -1)
                groups, units = found.get(dim, (empty, empty))
                mine = line >= 0
                groups = torch.where(mine, index, groups)
                found[dim] = groups, torch.where(mine, line, units)
        return found, lost

    def _views(self, tags: Tensor) -> Iterator[Tensor]:
        """The classes of a value; a weight has those of its rows and of its columns."""
        if tags.numel() and bool((tags < 0).all()):
            first, last = int(tags.flatten()[0]), int(tags.flatten()[-1])
            name = self.ledger.locate(first)[0]
            if name == self.ledger.locate(last)[0]:
                base, shape = self.ledger.shapes[name]
                for dim, variables in self._sides(name):
                    inner = shape[dim + 1 :].numel()
                    index = (-1 - tags - base) // inner % shape[dim]
                    line = variables.clamp(min=0)[index]
                    yield torch.where(line > 0, self.label[line], -1)
        yield self.classes_of(tags)

    def _sides(self, name: str) -> Iterator[tuple[int, Tensor]]:
        for owner, dim in self.ledger.rows:
            if owner == name:
                yield dim, self.ledger.row_variables(name, dim)
        seen = set()
        for found in self.ledger.consumed:
            if found.parameter == name and found.parameter_dim not in seen:
                seen.add(found.parameter_dim)
                yield found.parameter_dim, found.variables


def present(groups: Tensor) -> list[int]:
    """The groups that own something, of a tensor of group numbers (-1 for none).

    Example:
        >>> present(torch.tensor([-1, 2, 0, 2]))
        [0, 2]
    """
    if not groups.numel() or int(groups.max()) < 0:
        return []
    counts = torch.bincount(groups.flatten() + 1)
    return [i for i, n in enumerate(counts.tolist()[1:]) if n]


def slab_dim(own: Tensor) -> int | None:
    """The one dimension along which owners differ, or None.

    Example:
        >>> slab_dim(torch.tensor([[0, 0, 1], [0, 0, 1]]))
        1
        >>> slab_dim(torch.tensor([[0, 1], [1, 0]])), slab_dim(torch.zeros(2, 2))
        (None, None)
    """
    if not own.numel() or bool((own == own.flatten()[0]).all()):
        return None
    for dim in range(own.ndim):
        lines = own.movedim(dim, 0).reshape(own.shape[dim], -1)
        if own.shape[dim] > 1 and bool((lines == lines[:, :1]).all()):
            return dim
    return None
