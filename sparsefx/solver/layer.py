"""A layer as a budget sees it, and the masks that a few scalars stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.errors import BudgetError, MaskError
from sparsefx.solver.projection import BUDGET_SLACK


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer as the budget sees it.

    Attributes:
        magnitude: weights or their absolute values (signs do not matter), any shape,
            float32 or float64; never modified.
        price: cost of one kept entry, > 0.
        worth: the value of an entry is ``worth * magnitude``; > 0.
        lower: least number of entries to keep, in [0, n].
        upper: most entries to keep, in [lower, n].
        sharpness: what beta is multiplied by in this layer, > 0: means of n weights
            spread ``sqrt(n)`` times less than weights.
    """

    magnitude: Tensor
    price: float
    worth: float
    lower: int
    upper: int
    sharpness: float = 1.0


def total_cost(layers: Sequence[Layer], counts: Sequence[float]) -> float:
    """``sum price * count``, rounded once."""
    pairs = zip(layers, counts, strict=True)
    return math.fsum(layer.price * count for layer, count in pairs)


def check_layers(
    layers: Sequence[Layer], budget: float, names: Sequence[str] | None
) -> Sequence[str]:
    """Refuses ill-formed layers and infeasible budgets; returns the names to use.

    Raises:
        MaskError: a dtype, price, worth or bound is not allowed.
        BudgetError: the budget is below the cost of the lower bounds.
    """
    labels = names or [f"layer {i}" for i in range(len(layers))]
    for layer, label in zip(layers, labels, strict=True):
        if layer.magnitude.dtype not in (torch.float32, torch.float64):
            raise MaskError(
                f"weight {label!r} has magnitudes of {layer.magnitude.dtype}; the "
                "solver takes float32 or float64: upcast them"
            )
        if not (0.0 < layer.price < math.inf and 0.0 < layer.worth < math.inf):
            raise MaskError(
                f"weight {label!r} has price {layer.price:g} and worth "
                f"{layer.worth:g}; both must be finite and above 0"
            )
        if not 0 <= layer.lower <= layer.upper <= layer.magnitude.numel():
            raise MaskError(
                f"weight {label!r} has bounds {layer.lower} to {layer.upper}; they "
                f"must rise and lie in 0 to {layer.magnitude.numel()}"
            )
    least = total_cost(layers, [layer.lower for layer in layers])
    most = total_cost(layers, [layer.upper for layer in layers])
    if not budget * (1.0 + BUDGET_SLACK) >= least:
        bound = [n for n, x in zip(labels, layers, strict=True) if x.lower > 0]
        raise BudgetError(
            f"budget {budget:g} is outside the feasible range {least:g} to {most:g}: "
            f"the lower bounds of {', '.join(bound) or 'the layers'} alone cost "
            f"{least:g}; raise the budget, or lower those bounds"
        )
    return labels
