"""What an optimizer remembers of single entries of a weight, set to zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparsefx.errors import MaskError


def forgetting(
    optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], moved: Sequence[Tensor]
) -> list[Callable[[], object]]:
    """What zeroes every state tensor of a weight's shape where ``moved`` is true.

    Works for any optimizer: momentum, both moments of Adam, and the like.

    Args:
        optimizer: holds the weights.
        weights: parameters, one a site.
        moved: bool masks of the weights' shapes.

    Raises:
        MaskError: the optimizer holds none of the weights.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        >>> w.grad = torch.ones(2)
        >>> sgd.step()
        >>> with torch.no_grad():
        ...     for write in forgetting(sgd, [w], [torch.tensor([True, False])]):
        ...         _ = write()
        >>> sgd.state[w]["momentum_buffer"].tolist()
        [0.0, 1.0]
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(weight) in held for weight in weights):
        raise MaskError(
            f"the {type(optimizer).__name__} given to step holds none of the masked "
            "weights; give the optimizer that trains this model"
        )
    return [
        partial(value.masked_fill_, entries.to(value.device), 0)
        for weight, entries in zip(weights, moved, strict=True)
        if weight.shape == entries.shape  # of kept entries it moves with them
        for value in optimizer.state.get(weight, {}).values()
        if isinstance(value, Tensor) and value.shape == weight.shape
    ]
