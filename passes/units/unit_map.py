"""Units: heads, neurons and channels, and what of a model each of them owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsefx.passes.units.unit_costs import UnitPrices

Kind = Literal["heads", "neurons", "channels"]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """How the units of a group divide one dimension of a tensor among them.

    Attributes:
        name: of a parameter or buffer, or of a node.
        dim: the dimension.
        owner: unit that owns each index of it, -1 where no unit of the group does.
    """

    name: str
    dim: int
    owner: Tensor

    def indices(self, unit: int) -> tuple[int, ...]:
        """What one unit owns.

        Example:
            >>> Share("fc.weight", 0, torch.tensor([0, 0, 1, 1])).indices(1)
            (2, 3)
        """
        return tuple(int(i) for i in (self.owner == unit).nonzero().flatten())


@dataclass(frozen=True, slots=True, eq=False)
class UnitGroup:
    """Units of the same build, any of which can be removed by itself.

    Attributes:
        name: path of the module that uses what the units compute, and their kind.
        kind: ``"heads"``, ``"neurons"`` or ``"channels"``.
        size: number of units.
        tensors: the parameters and buffers they divide among them; rows of what
            computes a unit, columns of what uses it.
        producers: names in ``tensors`` whose rows compute the units.
        consumers: names in ``tensors`` whose columns use them.
        row_dims: by name of a producer, the dimensions whose indices compute units.
        gates: the graph's values where the units are used; with a unit's entries zero
            in all of these, the model computes what it would without the unit.
        macs: multiply-accumulates that go with one unit, in the example call, half of
            them where another group that may close divides the same weight the other
            way.
        params: parameters that go with one unit, likewise.
    """

    name: str
    kind: Kind
    size: int
    tensors: tuple[Share, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    row_dims: Mapping[str, tuple[int, ...]]
    gates: tuple[Share, ...]
    macs: float
    params: float


@dataclass(frozen=True, slots=True, eq=False)
class UnitMap:
    """The units of a graph, and the sizes in it that depend on them.

    Attributes:
        groups: by name.
        layout: for each node whose value units divide: by dimension, the group and the
            unit that own each index (-1 for none); a list of these for several outputs.
        refused: why weights that look removable are not, by parameter.
        prices: what groups share, by their place in ``groups``; see `among`.
    """

    groups: Mapping[str, UnitGroup]
    layout: Mapping[str, list[Mapping[int, tuple[Tensor, Tensor]]]]
    refused: Mapping[str, str]
    prices: UnitPrices

    def __str__(self) -> str:
        lines = [
            f"{g.name}: {g.size} {g.kind}, {g.macs:.6g} MACs and {g.params:.6g} "
            "parameters each"
            for g in self.groups.values()
        ]
        lines += [f"{name}: none, {why}" for name, why in self.refused.items()]
        return "\n".join(lines)


def kept_indices(share: Share, keep: Tensor) -> Tensor:
    """Indices of a dimension that stay when only some units do.

    Args:
        share: who owns what.
        keep: bool, one entry a unit.

    Example:
        >>> share = Share("fc.weight", 0, torch.tensor([0, 0, 1, 1, -1]))
        >>> kept_indices(share, torch.tensor([False, True])).tolist()
        [2, 3, 4]
    """
    stays = torch.cat([keep, keep.new_ones(1)])  # -1 reads the last entry
    return stays[share.owner].nonzero().flatten()
