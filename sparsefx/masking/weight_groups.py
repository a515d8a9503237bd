r"""The groups that a weight is made of: how they are cut out, valued and put back.

The solver keeps or drops *entries*. Without structure they are the weights; else they
are groups of weights, each with one value, the mean magnitude

    v_g = (1/n) sum_{i in g} |w_i|        (n weights a group)

and ``n`` times the price of a weight, so that value and price compare as for single
weights. Means spread ``sqrt(n)`` times less, so beta is that much larger for them, as
in Tai, Tian, Lim, "Spartan", 2022 (arXiv 2205.14107). A block at a padded edge is
filled up with zeros and costs a whole one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsefx.kernels.mask_rule import MaskScalars, magnitude, wide


class Grouping(Protocol):
    """What the solver and the masked weight must know of a granularity.

    Attributes:
        count: entries that are kept or dropped.
        size: weights that an entry is priced as.
        base: weights that are kept whatever the budget.
        least: entries that give every output unit one, as far as groups allow.
    """

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def base(self) -> int: ...  # noqa: D102

    @property
    def least(self) -> int: ...  # noqa: D102

    def values(self, weight: Tensor) -> Tensor:
        """The entries' values, shape (count,), float32 or float64, no gradient."""

    def pull(self, weight: Tensor, slopes: Tensor) -> Tensor:
        """``sum_g slopes_g dv_g/dw``, like the weight; its own sign counts."""

    def expand(self, weight: Tensor, kept: Tensor) -> Tensor:
        """The bool mask, like the weight, of kept entries of shape (count,)."""

    def factors(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """``m`` of every weight, no gradient; see `sparsefx.masking.masked_groups`."""

    def masked_backward(
        self, grad: Tensor, weight: Tensor, scalars: MaskScalars
    ) -> tuple[Tensor, Tensor]:
        """The local gradient, and the gradient of ``mu`` in float64."""

    def transformable(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """``m w`` and its gradient from plain operations, for vmap and its like."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight of some shape reads as matrices of outputs times inputs.

    Attributes:
        shape: the weight's shape.
        kind: ``"conv"``, ``"conv_transpose"``, ``"rows"`` (outputs first, as in a
            linear layer) or ``"free"`` (only blocks can be told).
        taps: a convolution is a matrix at each place of its kernel, not one of outputs
            times all that they multiply.
    """

    shape: tuple[int, ...]
    kind: str
    taps: bool = False

    def matrices(self, weight: Tensor) -> Tensor:
        """The weight as (batch, outputs, inputs)."""
        if self.kind == "conv_transpose":
            weight = weight.transpose(0, 1)
        if not self.kind.startswith("conv"):
            return weight.reshape(-1, *self.shape[-2:])
        if self.taps:
            return weight.flatten(2).movedim(-1, 0)
        return weight.flatten(1)[None]

    def back(self, matrices: Tensor) -> Tensor:
        """What `matrices` was made of."""
        if not self.kind.startswith("conv"):
            return matrices.reshape(self.shape)
        if self.taps:
            matrices = matrices.movedim(0, -1)
        if self.kind == "conv_transpose":
            swapped = (self.shape[1], self.shape[0], *self.shape[2:])
            return matrices.reshape(swapped).transpose(0, 1)
        return matrices.reshape(self.shape)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Matrices, and rows and columns of each."""
        shape = self.shape
        if not self.kind.startswith("conv"):
            return math.prod(shape[:-2]), shape[-2], shape[-1]
        outputs, inputs = shape[:2] if self.kind == "conv" else shape[1::-1]
        places = math.prod(shape[2:])
        if self.taps:
            return places, outputs, inputs
        return 1, outputs, inputs * places


@dataclass(frozen=True, slots=True)
class MeanGroups:
    """Blocks, channels and kernels: groups that do not overlap, valued by their mean.

    Attributes:
        layout: of the weight.
        height, width: of a group, in the layout's matrices.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[0.1, -0.3, 1.0, 1.0], [0.2, 0.2, 1.0, -1.0]])
        >>> MeanGroups(Layout((2, 4), "rows"), 2, 2).values(weight)
        tensor([0.2000, 1.0000])
    """

    layout: Layout
    height: int
    width: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Matrices, and groups down and across each."""
        batch, rows, columns = self.layout.sizes
        return batch, -(-rows // self.height), -(-columns // self.width)

    @property
    def count(self) -> int:
        """Groups."""
        return math.prod(self.grid)

    @property
    def size(self) -> int:
        """Weights of a whole group."""
        return self.height * self.width

    @property
    def base(self) -> int:
        """No weight is kept whatever the budget."""
        return 0

    @property
    def least(self) -> int:
        """A group for every row of them; one where a group is a row."""
        batch, down, across = self.grid
        if self.layout.taps:  # all places of a kernel feed the same outputs
            batch, across = 1, batch * across
        return batch * down if across > 1 else 1

    def split(self, weight: Tensor) -> Tensor:
        """The groups as rows, shape (count, size); padded with zeros."""
        matrices = self.layout.matrices(weight)
        batch, down, across = self.grid
        below = down * self.height - matrices.shape[1]
        beside = across * self.width - matrices.shape[2]
        if below or beside:
            matrices = F.pad(matrices, (0, beside, 0, below))
        cut = matrices.reshape(batch, down, self.height, across, self.width)
        return cut.transpose(2, 3).reshape(-1, self.size)

    def spread(self, entries: Tensor) -> Tensor:
        """One number a group to one a weight, in the weight's shape."""
        _, rows, columns = self.layout.sizes
        grid = entries.reshape(self.grid)
        wide = grid.repeat_interleave(self.height, 1)[:, :rows]
        return self.layout.back(wide.repeat_interleave(self.width, 2)[..., :columns])

    def values(self, weight: Tensor) -> Tensor:
        """See `Grouping.values`."""
        return self.split(magnitude(weight)).mean(1)

    def pull(self, weight: Tensor, slopes: Tensor) -> Tensor:
        """See `Grouping.pull`."""
        return weight.sign() * self.spread(slopes / self.size).to(weight.dtype)

    def expand(self, weight: Tensor, kept: Tensor) -> Tensor:
        """See `Grouping.expand`."""
        return self.spread(kept)

    def factors(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """See `Grouping.factors`."""
        return self.spread(scalars.soft(self.values(weight)))

    def masked_backward(
        self, grad: Tensor, weight: Tensor, scalars: MaskScalars
    ) -> tuple[Tensor, Tensor]:
        """See `Grouping.masked_backward`."""
        v = self.values(weight)
        m, g = scalars.soft(v), grad.to(v.dtype)
        s = m * (1 - m)
        rest = self.split(g * weight).sum(1)
        local = g * self.spread(m)
        local = local + self.pull(weight, s * scalars.slope.to(v.dtype) * rest)
        return local, (rest * s).sum(dtype=torch.float64)

    def transformable(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """See `Grouping.transformable`."""
        v = self.split(wide(weight.abs())).mean(1)
        return weight * self.spread(scalars.soft(v)).to(weight.dtype)
