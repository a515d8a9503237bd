"""What can be masked: a `Site` is one weight, with its granularity and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.weight_groups import Grouping
from sparsefx.settings.granularity import Granularity

if TYPE_CHECKING:
    import sympy


UNSTRUCTURED = Granularity()


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A maskable weight.

    Attributes:
        name: the parameter's name in ``named_parameters()``.
        module: path of the module that owns it ("" is the root).
        op: what consumes it, for example ``"linear"`` or ``"conv2d"``.
        shape: the weight's shape.
        costs: what one kept weight costs, by cost name (``macs``, ``params``,
            ``bytes``), as sympy expressions in the names of ``sizes``.
        sizes: the numbers the example inputs gave to the symbols of ``costs``.
        granularity: the unit that is kept or dropped.
        min_density: the least kept fraction, in [0, 1].
        max_density: the greatest kept fraction, in [0, 1].
        round_to: units are kept in multiples of it, or all of them.
        weight: the live parameter (not copied).
        others: the further names and owners of a weight that is tied.

    Example:
        >>> import sympy
        >>> batch = sympy.Symbol("batch")
        >>> site = Site("fc", "", "linear", (2, 3), {"macs": batch}, {"batch": 8})
        >>> site.numel, site.cost("macs")
        (6, 8.0)
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    costs: Mapping[str, sympy.Expr]
    sizes: Mapping[str, int] = field(default_factory=dict)
    granularity: Granularity = UNSTRUCTURED
    min_density: float = 0.0
    max_density: float = 1.0
    round_to: int = 1
    weight: Tensor | None = field(default=None, repr=False)
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What patterns may call it."""
        return (self.name, self.module, *self.others)

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def groups(self) -> Grouping | None:
        """How the weight is cut into groups; None if it is unstructured.

        Raises:
            PolicyError: the weight cannot have its granularity.
        """
        if self.granularity.kind == "unstructured":
            return None
        return grouping(str(self.granularity), self.shape, self.op, self.name)

    @property
    def units(self) -> int:
        """Entries that are kept or dropped: weights, or groups of them."""
        groups = self.groups
        return self.numel if groups is None else groups.count

    @property
    def base(self) -> int:
        """Weights that the granularity keeps whatever the budget."""
        groups = self.groups
        return 0 if groups is None else groups.base

    @property
    def unit_size(self) -> int:
        """Weights that one unit is priced as."""
        groups = self.groups
        return 1 if groups is None else groups.size

    def density(self, kept: float) -> float:
        """The kept fraction of weights if so many units are kept, at most 1."""
        weights = self.base + kept * self.unit_size
        return min(weights / max(self.numel, 1), 1.0)

    def cost(self, name: str, sizes: Mapping[str, int] | None = None) -> float:
        """Cost of one kept weight as a number.

        Args:
            name: ``"macs"``, ``"params"`` or ``"bytes"``.
            sizes: values for the symbols; those missing come from the example
                inputs.
        """
        bound = {**self.sizes, **(sizes or {})}
        return _number(self.costs[name], frozenset(bound.items()))


@functools.cache
def _number(expr: sympy.Expr, sizes: frozenset[tuple[str, int]]) -> float:
    return float(expr.subs(dict(sizes)))
