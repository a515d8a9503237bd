"""What example inputs were like, as JSON: enough to call the model again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError


def spelled(value: Any) -> Any:
    """Inputs as JSON: sizes and dtypes of tensors, plain values as they are.

    Of anything else only the class is told, and `stand_in` refuses it.

    Example:
        >>> spelled((torch.ones(2, 3), 0.5))
        {'tuple': [{'tensor': [2, 3], 'dtype': 'float32'}, 0.5]}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": list(value.shape), "dtype": dtype}
    if type(value) in (tuple, list):
        return {type(value).__name__: [spelled(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: spelled(item) for key, item in value.items()}}
    return {"object": type(value).__qualname__}


def stand_in(spelling: Any, device: torch.device) -> Any:
    """Inputs like those that were spelled: numbers from -1 to 1, ones where whole.

    Raises:
        MaskError: they held an object that JSON does not tell.

    Example:
        >>> stand_in({"tensor": [3], "dtype": "float32"}, torch.device("cpu"))
        tensor([-1.,  0.,  1.])
    """
    if not isinstance(spelling, dict):
        return spelling
    if "tensor" in spelling:
        shape, dtype = spelling["tensor"], getattr(torch, spelling["dtype"])
        if not dtype.is_floating_point:
            return torch.ones(shape, dtype=dtype, device=device)
        count = torch.Size(shape).numel()
        return torch.linspace(-1, 1, count, device=device).view(shape).to(dtype)
    if "dict" in spelling:
        return {k: stand_in(item, device) for k, item in spelling["dict"].items()}
    for kind in (tuple, list):
        if kind.__name__ in spelling:
            return kind(stand_in(item, device) for item in spelling[kind.__name__])
    raise MaskError(
        f"the example inputs held a {spelling.get('object')}, which a file cannot "
        "hold; call sparsefx.transform with the policy and such inputs, then load into "
        "what it returns"
    )
