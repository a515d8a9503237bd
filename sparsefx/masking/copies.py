"""Copies of module trees, sparse or not."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from sparsefx.errors import MaskError


def mirror(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every tensor with ``model``.

    Parameters and buffers are the same objects; modules, hooks and attributes are
    copies, so that nothing done to the copy's structure is seen by the model.

    Raises:
        MaskError: the model holds something that cannot be copied.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> twin = mirror(net)
        >>> twin is net, twin.weight is net.weight
        (False, True)
    """
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        tensors += [v for v in vars(module).values() if isinstance(v, Tensor)]
    try:
        return copy.deepcopy(model, {id(t): t for t in tensors})
    except Exception as error:
        raise MaskError(
            f"this {type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{error}); transform it with inplace=True"
        ) from error


def duplicate(root: nn.Module) -> nn.Module:
    """A deep copy, also where an attribute is a computed weight (old weight norm)."""
    memo: dict[int, Any] = {}
    for module in root.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(root, memo)
