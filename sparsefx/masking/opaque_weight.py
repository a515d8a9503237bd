"""The masked weight on a CPU as operators that compilers leave whole.

Inductor cannot fuse a weight's mask into the convolution or product that follows on a
CPU, and would store masks for the backward pass instead of computing them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.missing_share import tell_what_is_missing


@torch.library.custom_op("sparsefx::masked_weight", mutates_args=())
def masked(
    weight: Tensor, bits: Tensor, vectors: Sequence[Tensor], index: int
) -> Tensor:
    """``h m w``; differentiable in ``weight`` and ``mu``, see
    `sparsefx.masking.masked_weight`."""
    maker = kernels_for([weight])
    return _like(weight, maker.masked(weight, bits, MaskScalars(*vectors), index))


@torch.library.custom_op("sparsefx::masked_weight_backward", mutates_args=())
def masked_backward(
    grad: Tensor, weight: Tensor, vectors: Sequence[Tensor], index: int
) -> tuple[Tensor, Tensor]:
    """The local gradient, and that of ``mu``."""
    maker, rule = kernels_for([weight, grad]), MaskScalars(*vectors)
    tell_what_is_missing(rule.mu, index, weight)
    local, total = maker.masked_backward(grad, weight, rule, index)
    return _like(weight, local), total


@masked.register_fake
def _(weight: Tensor, bits: Tensor, vectors: Sequence[Tensor], index: int) -> Tensor:
    return torch.empty_like(weight)


@masked_backward.register_fake
def _(
    grad: Tensor, weight: Tensor, vectors: Sequence[Tensor], index: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(vectors[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, _, vectors, ctx.index = inputs
    ctx.save_for_backward(weight, *vectors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, *vectors = ctx.saved_tensors
    local, total = masked_backward(grad, weight, vectors, ctx.index)
    return local, None, [total, *[None] * (len(vectors) - 1)], None


masked.register_autograd(_differentiate, setup_context=_save)


def _like(weight: Tensor, out: Tensor) -> Tensor:
    """The result laid out as the weight, as compilers are told it is."""
    same = out.stride() == weight.stride()
    return out if same else torch.empty_like(weight).copy_(out)
