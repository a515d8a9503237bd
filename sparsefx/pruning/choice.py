"""From what dropping each weight costs to a mask, in every granularity."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sparsefx.learners.choose_entries import largest
from sparsefx.masking.site import Site
from sparsefx.masking.weight_groups import MeanGroups
from sparsefx.pruning.products import Form


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """How many entries of a weight are kept, and which can be kept together.

    Attributes:
        site: the weight, with its granularity.
        form: how it reads as matrices.
        count: entries (weights, or groups of them) to keep.
        allowed: bool, like the weight: what may be kept; None is all.

    Example:
        >>> import torch
        >>> site = Site("w", "fc", "linear", (2, 4), {})
        >>> choose = Choice(site, Form((2, 4)), 3)
        >>> choose(torch.tensor([[[9.0, 1.0, 1.0, 7.0], [0.0, 8.0, 0.0, 0.0]]])).sum()
        tensor(3)
    """

    site: Site
    form: Form
    count: int
    allowed: Tensor | None = None

    def __call__(self, energy: Tensor) -> Tensor:
        """The mask of greatest energy, ties by index; bool, like the energy.

        Args:
            energy: (groups, outputs, inputs): what dropping a weight costs, at least 0.
                A group's is the sum of its weights'.
        """
        values, cut = self.form.back(energy), self.site.groups
        if self.allowed is not None:
            values = values * self.allowed
        if cut is None:
            flat = largest(values.reshape(-1), self.count, self.site.name)
            return self.form.matrices(flat.view(values.shape))
        entries = largest(cut.values(values), self.count, self.site.name)
        return self.form.matrices(cut.expand(values, entries))

    @property
    def width(self) -> int:
        """Columns of the matrices that must be decided together, or a divisor of it."""
        shape, cut = self.site.shape, self.site.groups
        whole = math.prod(shape[1:])
        if cut is None:
            return 1
        if not isinstance(cut, MeanGroups):  # runs along the input channels
            return self.site.granularity.sizes[1] * math.prod(shape[2:])
        return whole if cut.layout.taps else min(cut.width, whole)
