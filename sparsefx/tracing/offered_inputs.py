"""Example inputs from the model itself, when the user gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def offered(model: nn.Module) -> Any:
    """Inputs that ``model`` says it takes, or None.

    Looks for, in this order: ``dummy_inputs`` (Hugging Face), ``pretrained_cfg`` with
    an ``input_size`` (timm), ``example_input_array`` (Lightning), the width of the
    first layer if it is a Linear.

    Returns:
        A tuple of positional inputs, a dict of keyword inputs, or None.

    Example:
        >>> offered(nn.Sequential(nn.Linear(4, 2)))[0].shape
        torch.Size([2, 4])
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    like: dict[str, Any] = {} if weight is None else {"device": weight.device}
    dummies = getattr(model, "dummy_inputs", None)
    if isinstance(dummies, Mapping) and dummies:
        return dict(dummies)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else None
        if size:
            return (torch.zeros(2, *size, **like),)
    example = getattr(model, "example_input_array", None)
    if isinstance(example, Tensor):
        return (example,)
    if isinstance(example, (tuple, Mapping)):
        return example
    first = next((m for m in model.modules() if m._parameters), None)
    if isinstance(first, nn.Linear):
        return (torch.zeros(2, first.in_features, dtype=first.weight.dtype, **like),)
    return None
