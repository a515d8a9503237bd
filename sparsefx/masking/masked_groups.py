r"""The masked weight of a layer whose weights live and die in groups.

Each group ``g`` has a value ``v_g`` (`sparsefx.masking.weight_groups`), from which the
site's mask parameters make a soft mask ``m_g`` and a hard mask ``h_g`` as for single
weights (`sparsefx.masking.masked_weight`). Weights of a group share them, so that with
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

from sparsefx.kernels.mask_rule import MaskScalars, flagged, readable
from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.weight_groups import Grouping
from sparsefx.torch_internals import is_exporting, transforming


def masked_groups(
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
    index: int,
    granularity: str,
    op: str,
) -> Tensor:
    """The weight a layer sees, masked group by group.

    Args:
        weight: the latent weight, any shape.
        mu: multipliers, one a site; like the others a mask parameter, as of
            `sparsefx.masking.masked_weight.masked_weight`, but of groups' values.
        slope: inverse temperatures over prices.
        center: values the soft masks are centred on.
        threshold: values of the last kept groups.
        last: numbers of the last groups kept at the threshold.
        through: share of the gradient that dropped groups receive.
        index: which site this weight is.
        granularity: such as ``"block:16x16"``, ``"2:4"``, ``"channel"``, ``"kernel"``.
        op: what consumes the weight, as in `sparsefx.Site`.

    Returns:
        A tensor like ``weight``; differentiable in ``weight`` and ``mu``.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> w = torch.tensor([[0.5, 0.1], [-2.0, 1.0]])
        >>> rule = (one * torch.inf, one, one, one, torch.tensor([-1]), one)
        >>> masked_groups(w, *rule, 0, "channel", "linear")
        tensor([[ 0.,  0.],
                [-2.,  1.]])
    """
    vectors = MaskScalars(mu, slope, center, threshold, last, through)
    scalars = vectors.at(index)
    if transforming() or is_exporting():
        groups = grouping(granularity, tuple(weight.shape), op)
        return groups.transformable(weight, scalars)
    return flagged(_forward(weight, scalars, granularity, op), weight)


# Operators that compilers leave whole: they need not trace how weights are cut.
@torch.library.custom_op("sparsefx::masked_groups", mutates_args=())
def _forward(
    weight: Tensor, scalars: Sequence[Tensor], granularity: str, op: str
) -> Tensor:
    groups = grouping(granularity, tuple(weight.shape), op)
    return groups.masked(weight, MaskScalars(*scalars)).contiguous()


@torch.library.custom_op("sparsefx::masked_groups_backward", mutates_args=())
def _backward(
    grad: Tensor,
    weight: Tensor,
    scalars: Sequence[Tensor],
    granularity: str,
    op: str,
) -> tuple[Tensor, Tensor]:
    groups = grouping(granularity, tuple(weight.shape), op)
    rule = MaskScalars(*scalars)
    local, total = groups.masked_backward(grad, weight, rule)
    return local.to(weight.dtype).contiguous(), total.to(rule.mu.dtype)


@_forward.register_fake
def _(weight: Tensor, scalars: Sequence[Tensor], granularity: str, op: str) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(
    grad: Tensor,
    weight: Tensor,
    scalars: Sequence[Tensor],
    granularity: str,
    op: str,
) -> tuple[Tensor, Tensor]:
    like = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return like, torch.empty_like(scalars[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, scalars, *ctx.rule = inputs
    ctx.save_for_backward(weight, *scalars)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, *scalars = ctx.saved_tensors
    local, total = _backward(grad, weight, scalars, *ctx.rule)
    return local, [total, *[None] * (len(scalars) - 1)], None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def entries(groups: Grouping | None, weight: Tensor) -> Tensor:
    """What the solver sees of a weight: its groups' values, or its flat self.

    Example:
        >>> entries(grouping("channel", (2, 2), "linear"), torch.ones(2, 2))
        tensor([1., 1.])
    """
    return readable(weight) if groups is None else groups.values(weight)
