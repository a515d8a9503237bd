"""Means over ranks; without `torch.distributed`, and on one rank, nothing happens."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.kernels.ranks import Ranks


def mean_over_ranks(value: Tensor, data: Ranks | None = None) -> Tensor:
    """The mean of ``value`` over the ranks that see other data.

    Data-parallel training averages gradients; the coupling term must average the
    sums it is made of in the same way.

    Args:
        value: of this rank.
        data: these ranks; None is the default group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    group = None if data is None else data.group
    ranks = dist.get_world_size(group)
    if ranks > 1:
        value = value.clone()
        dist.all_reduce(value, group=group)
        value /= ranks
    return value


def ranks_of(mesh: Any) -> Ranks:
    """The ranks that a user names.

    Args:
        mesh: a process group, or a device mesh of one dimension.

    Raises:
        MaskError: it is something else, or this rank is not in it.
    """
    group = mesh.get_group() if getattr(mesh, "ndim", 0) == 1 else mesh
    known = dist.is_available() and isinstance(group, dist.ProcessGroup)
    if not known or dist.get_rank(group) < 0:
        raise MaskError(
            f"mesh is a {type(mesh).__name__}; give the process group, or the device "
            "mesh of one dimension, of the ranks whose gradients are averaged, with "
            "this one among them"
        )
    return Ranks(group, torch.device("cpu"))
