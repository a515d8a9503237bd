"""How far the outputs of a pruned model are from those of the dense one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsefx.tracing.example_calls import Call
from sparsefx.tracing.preserve import tensors_of
from sparsefx.training.divergence import counted


@torch.no_grad()
def output_change(
    dense: nn.Module,
    pruned: nn.Module,
    calls: Sequence[Call],
    valid: Sequence[Tensor | None],
) -> float:
    """Summed square of the change of all outputs over the square of the dense ones.

    Args:
        dense: run as it is, without gradients.
        pruned: likewise.
        calls: of both.
        valid: of each call, (batch, tokens): the tokens that count in outputs that have
            these dimensions first.

    Example:
        >>> one, two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(one.weight), nn.init.zeros_(two.weight)
        >>> output_change(one, two, [((torch.ones(3, 1),), {})], [None])
        1.0
    """
    off = whole = 0.0
    for (args, kwargs), mask in zip(calls, valid, strict=True):
        before = tensors_of(dense(*args, **kwargs))
        after = tensors_of(pruned(*args, **kwargs))
        for x, y in zip(before, after, strict=True):
            if not x.is_floating_point():
                continue
            x, y = counted(x, mask), counted(y, mask)
            off += float((y.double() - x.double()).square().sum())
            whole += float(x.double().square().sum())
    return off / whole if whole else 0.0
