r"""The masked weight of a layer whose weights live and die in groups.

Each group ``g`` has a value ``v_g`` (`sparsefx.groups`), from which the site's mask
parameters make a soft mask ``m_g`` and a hard mask ``h_g`` as for single weights
(`sparsefx.masking`). Weights of a group share them, so that with ``G = dL/d(h m w)``

    dL/dw_i = m_g G_i + slope m_g (1 - m_g) a_g dv_g/dw_i

where ``a_g`` is the sum of ``G_i w_i`` over the group, and the multiplier's gradient is
``sum_g a_g m_g (1 - m_g)``. The budget's coupling term is added when the backward pass
ends, through the same ``dv_g/dw_i``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsefx.grouping import grouping
from sparsefx.groups import Grouping, MeanGroups
from sparsefx.layer import hard_mask, soft_mask
from sparsefx.n_of_m import NOfM, mean_rest, soft_top
from sparsefx.private import is_compiling, is_exporting, transforming


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
            `sparsefx.masking.masked_weight`, but of groups' values.
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
    vectors = (mu, slope, center, threshold, last, through)
    rule = (*(v[index] for v in vectors), granularity, op)
    if transforming() or is_exporting():
        return _transformable(weight, *rule)  # type: ignore[arg-type]
    out: Tensor = _forward(weight, *rule)
    if not is_compiling() and weight.requires_grad and not torch.is_grad_enabled():
        if not torch.is_inference_mode_enabled():
            out.requires_grad_(True)  # as `sparsefx.masking.masked_weight` does
    return out


def _groups_of(weight: Tensor, granularity: str, op: str) -> MeanGroups | NOfM:
    found = grouping(granularity, tuple(weight.shape), op)
    assert isinstance(found, MeanGroups | NOfM)
    return found


# Operators that compilers leave whole: they need not trace how weights are cut.
@torch.library.custom_op("sparsefx::masked_groups", mutates_args=())
def _forward(
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
    granularity: str,
    op: str,
) -> Tensor:
    groups = _groups_of(weight, granularity, op)
    v = groups.values(weight)
    m, kept = soft_mask(v, slope, center, mu), hard_mask(v, threshold, last)
    if isinstance(groups, NOfM):
        n = groups.soft(weight, slope)
        masked = weight * (1 - (1 - n) * (1 - m)).to(weight.dtype)
        return masked.masked_fill(~groups.expand(weight, kept), 0.0).contiguous()
    gate = torch.where(kept, m, torch.zeros_like(m)).to(weight.dtype)
    return (weight * groups.spread(gate)).contiguous()


@torch.library.custom_op("sparsefx::masked_groups_backward", mutates_args=())
def _backward(
    grad: Tensor,
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
    granularity: str,
    op: str,
) -> tuple[Tensor, Tensor]:
    groups = _groups_of(weight, granularity, op)
    v = groups.values(weight)
    m, kept = soft_mask(v, slope, center, mu), hard_mask(v, threshold, last)
    s = m * (1 - m)
    one, steep = torch.ones((), dtype=v.dtype, device=v.device), slope.to(v.dtype)
    g = grad.to(v.dtype)
    if isinstance(groups, NOfM):
        g = g * torch.where(groups.expand(weight, kept), one, through.to(v.dtype))
        n = groups.soft(weight, slope)
        a = g * weight
        pushed = groups.soft_pull(weight, n, steep, a * (1 - m))
        rest = (a * (1 - n)).sum()[None]
        local = g * (1 - (1 - n) * (1 - m)) + pushed
    else:
        share = torch.where(kept, one, through.to(v.dtype))
        rest = groups.split(g * weight).sum(1) * share
        local = g * groups.spread(m * share)
    local = local + groups.pull(weight, s * steep * rest)
    total = (rest * s).sum(dtype=torch.float64).to(mu.dtype)
    return local.to(weight.dtype).contiguous(), total


@_forward.register_fake
def _(weight: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(grad: Tensor, weight: Tensor, mu: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    like = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return like, torch.empty_like(mu)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-2])
    ctx.rule = inputs[-2:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    local, total = _backward(grad, *ctx.saved_tensors, *ctx.rule)
    return local, total, *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_save)


def _transformable(
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
    granularity: str,
    op: str,
) -> Tensor:
    """The same value and gradient from plain operations, for vmap and its like."""
    groups = _groups_of(weight, granularity, op)
    a = weight.abs()
    a = a if a.dtype.itemsize >= 4 else a.float()
    if isinstance(groups, NOfM):
        v = mean_rest(a, groups.top(weight), groups.size)
        n = groups.join(soft_top(groups.split(a), slope.to(a.dtype), groups.kept))
        m = 1 - (1 - n) * (1 - soft_mask(v, slope, center, mu))
    else:
        v = groups.split(a).mean(1)
        m = groups.spread(soft_mask(v, slope, center, mu))
    kept = groups.expand(weight, hard_mask(v.detach(), threshold, last))
    masked = weight * m.to(weight.dtype)
    dropped = (masked - masked.detach()) * through.to(weight.dtype)
    return torch.where(kept, masked, dropped)


def entries(groups: Grouping | None, weight: Tensor) -> Tensor:
    """What the solver sees of a weight: its groups' values, or its flat self.

    Example:
        >>> entries(grouping("channel", (2, 2), "linear"), torch.ones(2, 2))
        tensor([1., 1.])
    """
    if groups is not None:
        return groups.values(weight)
    flat = weight.detach().reshape(-1)
    return flat if flat.dtype.itemsize >= 4 else flat.float()
