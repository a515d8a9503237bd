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
from sparsefx.mask_scalars import MaskScalars


@torch.library.custom_op("sparsefx::masked_weight", mutates_args=())
def masked(weight: Tensor, scalars: Sequence[Tensor]) -> Tensor:
    """``h m w``; differentiable in ``weight`` and ``mu``, see `sparsefx.masking`."""
    maker = kernels_for([weight])
    return _like(weight, maker.masked(weight, MaskScalars(*scalars)))


@torch.library.custom_op("sparsefx::masked_weight_backward", mutates_args=())
def masked_backward(
    grad: Tensor, weight: Tensor, scalars: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The local gradient and ``sum G w s``."""
    maker = kernels_for([weight, grad])
    local, total = maker.masked_backward(grad, weight, MaskScalars(*scalars))
    return _like(weight, local), total


@masked.register_fake
def _(weight: Tensor, scalars: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(weight)


@masked_backward.register_fake
def _(grad: Tensor, weight: Tensor, scalars: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty((), dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, scalars = inputs
    ctx.save_for_backward(weight, *scalars)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    weight, mu, *rest = ctx.saved_tensors
    local, total = masked_backward(grad, weight, [mu, *rest])
    return local, [total.to(mu.dtype), *[None] * len(rest)]


masked.register_autograd(_differentiate, setup_context=_save)


def _like(weight: Tensor, out: Tensor) -> Tensor:
    """The result laid out as the weight, as compilers are told it is."""
    same = out.stride() == weight.stride()
    return out if same else torch.empty_like(weight).copy_(out)
