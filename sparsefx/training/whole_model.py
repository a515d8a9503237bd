"""The plain model of a sparse one that ranks share, whole on every rank."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from sparsefx.errors import MaskError
from sparsefx.masking.distribution import whole_tensor, without_distribution
from sparsefx.masking.masked_module import restore
from sparsefx.training.life import Life


@torch.no_grad()
def whole_model(root: nn.Module, life: Life) -> nn.Module:
    """A copy with whole weights, masks baked in; collective.

    Args:
        root: what is spread by fully_shard or parallelize_module.
        life: of it.
    """
    masked = {id(p): value for part in life.parts for p, value in part.masked()}
    memo: dict[int, Any] = {
        id(thing): nn.Identity()  # copies of masks are of no use, and refer to ranks
        for thing in (life, *(part.state for part in life.parts))
    }
    for parameter in root.parameters():
        value = masked.get(id(parameter), parameter)
        memo[id(parameter)] = nn.Parameter(
            whole_tensor(value).detach().clone(), parameter.requires_grad
        )
    with without_distribution(root):
        dense = copy.deepcopy(root, memo)
    restore(dense)
    if life.lesson is not None:  # a teacher's
        dense._forward_hooks.pop(life.lesson.id, None)
        dense._forward_hooks_with_kwargs.pop(life.lesson.id, None)
    return dense


def refuse_shared(life: Life, verb: str) -> None:
    """Refuses what writes or reads one file where ranks share a model.

    Raises:
        MaskError: they do.
    """
    if life.shared():
        raise MaskError(
            f"{verb} is of one file, and ranks share this model; use "
            "torch.distributed.checkpoint with module.state_dict(), or finalize, which "
            "gathers the plain model on every rank"
        )
