"""What can be masked: a `Site` is one weight, with its granularity and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sparsefx.errors import PolicyError

if TYPE_CHECKING:
    import sympy

GRANULARITIES = ("unstructured",)


@dataclass(frozen=True, slots=True)
class Granularity:
    """The unit of a weight that lives or dies together.

    Example:
        >>> str(Granularity.parse("unstructured"))
        'unstructured'
    """

    kind: str = "unstructured"

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Reads a pattern such as ``"unstructured"``.

        Raises:
            PolicyError: the pattern is not known; the message lists those that are.
        """
        if text not in GRANULARITIES:
            raise PolicyError(
                f"granularity {text!r} is not known; allowed: "
                f"{', '.join(GRANULARITIES)}"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.kind


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
        weight: the live parameter (not copied).
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    costs: Mapping[str, sympy.Expr]
    sizes: Mapping[str, int] = field(default_factory=dict)
    granularity: Granularity = Granularity()
    min_density: float = 0.0
    max_density: float = 1.0
    weight: Tensor | None = field(default=None, repr=False)

    @property
    def numel(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

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
