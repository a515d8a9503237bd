"""Sums over ranks; without `torch.distributed`, and on one rank, nothing happens."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of ``value`` over all ranks of the default group.

    Data-parallel training averages gradients; the coupling term must average the
    sums it is made of in the same way.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    ranks = dist.get_world_size()
    if ranks > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= ranks
    return value
