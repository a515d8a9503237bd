"""Every private name of torch.distributed that the package uses, in one place."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def is_dtensor(value: Any) -> bool:
    """Whether a tensor is one of `torch.distributed.tensor`, spread over ranks.

    Example:
        >>> is_dtensor(torch.ones(1))
        False
    """
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, loaded.DTensor)


def local_part(tensor: Any) -> Tensor:
    """This rank's part of a tensor that is spread over ranks: the very object.

    Hooks of FSDP2 are attributes of it; ``to_local()`` may make another.
    """
    found: Tensor = tensor._local_tensor
    return found


def whole_tensor(tensor: Any) -> Tensor:
    """The whole tensor on every rank, where ranks share it; collective then."""
    found: Tensor = tensor.full_tensor() if is_dtensor(tensor) else tensor
    return found


def bounds_of_part(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of this rank's part, and its first index in each dimension."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, mesh, placements
    )
    return tuple(map(int, shape)), tuple(map(int, offset))


@contextlib.contextmanager
def without_distribution(root: torch.nn.Module) -> Iterator[None]:
    """In the block, modules have no classes, hooks and notes of torch.distributed.

    So they can be copied; what parallelism does is done by these alone.
    """
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed.fsdp import FSDPModule

    before = [(m, type(m), dict(m.__dict__)) for m in root.modules()]
    try:
        for module, kind, values in before:
            if issubclass(kind, FSDPModule):
                module.__class__ = kind.__bases__[1]
            for name, value in values.items():
                if name in (REGISTRY_KEY, STATE_KEY):
                    del module.__dict__[name]
                elif name.endswith("_hooks") and isinstance(value, dict):
                    module.__dict__[name] = type(value)(
                        (key, hook)
                        for key, hook in value.items()
                        if not _origin(hook).startswith("torch.distributed.")
                    )
        yield
    finally:
        for module, kind, values in before:
            module.__class__ = kind
            module.__dict__.update(values)


def _origin(hook: Any) -> str:
    return str(getattr(getattr(hook, "func", hook), "__module__", ""))
