r"""The masked weight: ``h * m * w`` recomputed from ``w`` and a few scalars.

For a weight ``w`` with magnitude ``a = |w|`` the mask parameters of its site are

* ``slope = beta * worth / price`` and ``center``, ``mu``, which give the soft mask
  ``m = sigmoid(slope * (a - center) + mu)``;
* ``threshold`` and ``last``, which give the hard mask ``h``: kept where
  ``a > threshold``, or ``a == threshold`` and the flat index is at most ``last``;
* ``through``, the share of the gradient that dropped entries receive: 1 is the
  straight-through estimator (dual averaging), 0 trains only what is kept.

No mask is stored. With ``G = dL/d(h m w)`` the backward pass gives the local part

    dL/dw_i = m_i G_i + sign(w_i) slope s_i G_i w_i,      s = m (1 - m)

and ``T = sum_i G_i w_i s_i`` as the gradient of ``mu``. The budget couples all
weights through ``mu``; that last term is added by `sparsefx.masking.budget_gradient`
when the backward pass ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import custom_ops, kernels_for, reference
from sparsefx.kernels.mask_rule import (
    MaskScalars,
    flagged,
    magnitude,
    straight_through,
    wide,
)
from sparsefx.torch_internals import is_compiling, is_exporting, transforming

__all__ = ["magnitude", "masked_weight"]


class _MaskedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: int, weight: Tensor, *vectors: Tensor) -> Tensor:
        ctx.index = index
        ctx.save_for_backward(weight, *vectors)
        # compilers fuse the plain expression with what uses it
        maker = reference if is_compiling() else kernels_for([weight])
        return maker.masked(weight, MaskScalars(*vectors), index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *rest = ctx.saved_tensors
        vectors = MaskScalars(*rest)
        g = grad.to_dense() if grad.is_sparse else grad
        maker = reference if is_compiling() else kernels_for([weight, g])
        local, total = maker.masked_backward(g, weight, vectors, ctx.index)
        return None, local, total, *[None] * 5


def _transformable(weight: Tensor, scalars: MaskScalars) -> Tensor:
    """The same value and gradient from plain operations, for vmap and its like."""
    a = wide(weight.abs())
    masked = weight * scalars.soft(a).to(weight.dtype)
    share = scalars.through.to(weight.dtype)
    return straight_through(scalars.hard(a.detach()), masked, share)


def masked_weight(
    weight: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    threshold: Tensor,
    last: Tensor,
    through: Tensor,
    index: int,
) -> Tensor:
    """The weight a layer sees: ``h * m * w`` (see the module's docstring).

    Args:
        weight: the latent weight ``w``, any shape.
        mu: multipliers, one a site; float64, shape (sites,).
        slope: inverse temperatures over prices, like ``mu``.
        center: magnitudes the soft masks are centred on, like ``mu``.
        threshold: magnitudes of the last kept entries, like ``mu``.
        last: flat indices of the last entries kept at the threshold; int64.
        through: share of the gradient dropped entries receive, like ``mu``.
        index: which site this weight is.

    Returns:
        A tensor like ``weight``; differentiable in ``weight`` and ``mu``.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> last = torch.tensor([-1])
        >>> w = torch.tensor([0.5, -2.0])
        >>> masked_weight(w, one * torch.inf, one, one, one, last, one, 0)
        tensor([ 0., -2.])
    """
    vectors = MaskScalars(mu, slope, center, threshold, last, through)
    if transforming():
        return _transformable(weight, vectors.at(index))
    if is_compiling() and not is_exporting() and weight.device.type == "cpu":
        opaque: Tensor = custom_ops.masked(weight, vectors, index)
        return opaque
    out: Tensor = _MaskedWeight.apply(index, weight, *vectors)  # type: ignore[no-untyped-call]
    return flagged(out, weight)
