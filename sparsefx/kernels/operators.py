"""The masked weight on a CPU as operators that compilers leave whole.

Inductor cannot fuse a weight's mask into the convolution or product that follows on a
CPU, and would store masks for the backward pass instead of computing them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for


@torch.library.custom_op("sparsefx::masked_weight", mutates_args=())
def masked(
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
) -> Tensor:
    """``h m w``; differentiable in ``weight`` and ``mu``, see `sparsefx.masking`."""
    maker = kernels_for([weight])
    return _like(weight, maker.masked(weight, mu, slope, center, threshold, last))


@torch.library.custom_op("sparsefx::masked_weight_backward", mutates_args=())
def masked_backward(
    grad: Tensor,
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
) -> tuple[Tensor, Tensor]:
    """The local gradient and ``sum G w s``."""
    maker, scalars = kernels_for([weight, grad]), (mu, slope, center, threshold, last)
    local, total = maker.masked_backward(grad, weight, *scalars, through)
    return _like(weight, local), total


@masked.register_fake
def _(weight: Tensor, *scalars: Tensor) -> Tensor:
    return torch.empty_like(weight)


@masked_backward.register_fake
def _(grad: Tensor, weight: Tensor, *scalars: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty((), dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    local, total = masked_backward(grad, *ctx.saved_tensors)
    return local, total.to(ctx.saved_tensors[1].dtype), *[None] * 5


masked.register_autograd(_differentiate, setup_context=_save)


def _like(weight: Tensor, out: Tensor) -> Tensor:
    """The result laid out as the weight, as compilers are told it is."""
    same = out.stride() == weight.stride()
    return out if same else torch.empty_like(weight).copy_(out)
