r"""The masked weight of a layer whose weights live and die in groups.

Each group ``g`` has a value ``v_g`` (`sparsefx.masking.weight_groups`), from which the
site's mask parameters make a soft mask ``m_g`` as for single weights; hard masks are
bits (`sparsefx.masking.masked_weight`). Weights of a group share them, so that with
``G = dL/d(h m w)``

    dL/dw_i = m_g G_i + slope m_g (1 - m_g) a_g dv_g/dw_i

where ``a_g`` is the sum of ``G_i w_i`` over the group, and the multiplier's gradient is
``sum_g a_g m_g (1 - m_g)``. The budget's coupling term is added when the backward pass
ends, through the same ``dv_g/dw_i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels.bits import unpack
from sparsefx.kernels.mask_rule import (
    MaskScalars,
    flagged,
    readable,
    straight_through,
)
from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.missing_share import (
    first_only,
    tell_of_transforms,
    tell_what_is_missing,
)
from sparsefx.masking.weight_groups import Grouping
from sparsefx.torch_internals import is_compiling, is_exporting, transforming


def masked_groups(
    weight: Tensor,
    bits: Tensor,
    scalars: MaskScalars,
    index: int,
    granularity: str,
    op: str,
) -> Tensor:
    """The weight a layer sees, masked group by group.

    Args:
        weight: the latent weight, any shape.
        bits: the hard mask of its weights, as `sparsefx.kernels.bits`.
        scalars: of all sites, shape (sites,); they give soft masks of groups' values.
        index: which site this weight is.
        granularity: such as ``"block:16x16"``, ``"2:4"``, ``"channel"``, ``"kernel"``.
        op: what consumes the weight, as in `sparsefx.Site`.

    Returns:
        A tensor like ``weight``; differentiable in ``weight`` and ``mu``.

    Example:
        >>> from sparsefx.kernels.bits import pack
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> w = torch.tensor([[0.5, 0.1], [-2.0, 1.0]])
        >>> bits = pack(torch.tensor([[False, False], [True, True]]))
        >>> rule = MaskScalars(one * torch.inf, one, one)
        >>> masked_groups(w, bits, rule, 0, "channel", "linear")
        tensor([[ 0.,  0.],
                [-2.,  1.]])
    """
    if transforming():
        tell_of_transforms(weight, scalars.mu[index])
    if transforming() or is_exporting():
        groups = grouping(granularity, tuple(weight.shape), op)
        kept = unpack(bits, weight.shape)
        softly = groups.transformable(weight, scalars.at(index))
        return straight_through(kept, softly)
    return flagged(_forward(weight, bits, scalars, index, granularity, op), weight)


# Operators that compilers leave whole: they need not trace how weights are cut.
@torch.library.custom_op("sparsefx::masked_groups", mutates_args=())
def _forward(
    weight: Tensor,
    bits: Tensor,
    scalars: Sequence[Tensor],
    index: int,
    granularity: str,
    op: str,
) -> Tensor:
    groups = grouping(granularity, tuple(weight.shape), op)
    rule = MaskScalars(*scalars).at(index)
    softly = weight * groups.factors(weight, rule).to(weight.dtype)
    return softly.masked_fill(~unpack(bits, weight.shape), 0.0).contiguous()


@torch.library.custom_op("sparsefx::masked_groups_backward", mutates_args=())
def _backward(
    grad: Tensor,
    weight: Tensor,
    scalars: Sequence[Tensor],
    index: int,
    granularity: str,
    op: str,
) -> tuple[Tensor, Tensor]:
    groups = grouping(granularity, tuple(weight.shape), op)
    rule = MaskScalars(*scalars)
    tell_what_is_missing(rule.mu, index, weight)
    local, total = groups.masked_backward(grad, weight, rule.at(index))
    every = torch.zeros_like(rule.mu)
    every[index] = total
    return local.to(weight.dtype).contiguous(), every


@_forward.register_fake
def _(
    weight: Tensor,
    bits: Tensor,
    scalars: Sequence[Tensor],
    index: int,
    granularity: str,
    op: str,
) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(
    grad: Tensor,
    weight: Tensor,
    scalars: Sequence[Tensor],
    index: int,
    granularity: str,
    op: str,
) -> tuple[Tensor, Tensor]:
    like = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return like, torch.empty_like(scalars[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, _, scalars, *ctx.rule = inputs
    ctx.save_for_backward(weight, *scalars)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, *scalars = ctx.saved_tensors
    with torch.no_grad():
        local, total = _backward(grad, weight, scalars, *ctx.rule)
    if not is_compiling():
        local, total = first_only(local, total, grad, weight)
    return local, None, [total, *[None] * (len(scalars) - 1)], None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def entries(groups: Grouping | None, weight: Tensor) -> Tensor:
    """What the solver sees of a weight: its groups' values, or its flat self.

    Example:
        >>> entries(grouping("channel", (2, 2), "linear"), torch.ones(2, 2))
        tensor([1., 1.])
    """
    return readable(weight) if groups is None else groups.values(weight)
