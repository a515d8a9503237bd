r"""The masked weight: ``h * m * w``, with ``h`` a bit a weight and ``m`` from scalars.

For a weight ``w`` with magnitude ``a = |w|``

* ``h``, the hard mask, is what the last update decided: one bit a weight
  (`sparsefx.kernels.bits`), whatever has become of the weight since;
* ``slope = beta * worth / price`` and ``center``, ``mu`` are the site's scalars, which
  give the soft mask ``m = sigmoid(slope * (a - center) + mu)``.

With ``G = dL/d(h m w)`` the backward pass is straight-through for ``h``, so that
dropped weights may come back, and exact for ``m``: it gives the local part

    dL/dw_i = m_i G_i + sign(w_i) slope s_i G_i w_i,      s = m (1 - m)

and ``T = sum_i G_i w_i s_i`` as the gradient of ``mu``. The budget couples all
weights through ``mu``; that last term is added by `sparsefx.masking.budget_gradient`
when the backward pass ends.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for, reference
from sparsefx.kernels.bits import unpack
from sparsefx.kernels.mask_rule import (
    MaskScalars,
    flagged,
    magnitude,
    straight_through,
    wide,
)
from sparsefx.masking import opaque_weight
from sparsefx.masking.late_gradients import waits
from sparsefx.masking.missing_share import (
    first_only,
    tell_of_transforms,
    tell_what_is_missing,
)
from sparsefx.torch_internals import is_compiling, is_exporting, transforming

__all__ = ["magnitude", "masked_weight"]


class _MaskedWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, index: int, own: bool, weight: Tensor, bits: Tensor, *vectors: Tensor
    ) -> Tensor:
        ctx.index = index
        # what is saved may come back as another tensor (activation checkpointing)
        ctx.own = [weakref.ref(t) for t in (weight, vectors[0])] if own else None
        ctx.save_for_backward(weight, *vectors)
        # compilers fuse the plain expression with what uses it
        maker = reference if is_compiling() else kernels_for([weight])
        return maker.masked(weight, bits, MaskScalars(*vectors), index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *rest = ctx.saved_tensors
        vectors = MaskScalars(*rest)
        if not is_compiling():
            whole = tell_what_is_missing(vectors.mu, ctx.index, weight)
            own, mu = (known() for known in ctx.own) if ctx.own else (None, None)
            if whole and waits(mu, ctx.index, own, grad):
                # mu's gradient is found later too: its hook tells that a pass ran
                none = torch.zeros_like(vectors.mu)
                return None, None, grad, None, none, None, None
        g = grad.to_dense() if grad.is_sparse else grad
        maker = reference if is_compiling() else kernels_for([weight, g])
        with torch.no_grad():
            local, total = maker.masked_backward(g, weight, vectors, ctx.index)
        if not is_compiling():
            local, total = first_only(local, total, g, weight)
        return None, None, local, None, total, None, None


def _transformable(weight: Tensor, bits: Tensor, scalars: MaskScalars) -> Tensor:
    """The same value and gradient from plain operations, for vmap and its like."""
    masked = weight * scalars.soft(wide(weight.abs())).to(weight.dtype)
    return straight_through(unpack(bits, weight.shape), masked)


def masked_weight(
    weight: Tensor,
    bits: Tensor,
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    index: int,
    own: bool = False,
) -> Tensor:
    """The weight a layer sees: ``h * m * w`` (see the module's docstring).

    Args:
        weight: the latent weight ``w``, any shape.
        bits: ``h``, of its entries in logical order.
        mu: multipliers, one a site; float64, shape (sites,).
        slope: inverse temperatures over prices, like ``mu``.
        center: magnitudes the soft masks are centred on, like ``mu``.
        index: which site this weight is.
        own: it is a model's own parameter, whose state makes its gradient exact when
            the backward pass ends (`sparsefx.masking.late_gradients`).

    Returns:
        A tensor like ``weight``; differentiable in ``weight`` and ``mu``.

    Example:
        >>> from sparsefx.kernels.bits import pack
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> bits = pack(torch.tensor([False, True]))
        >>> masked_weight(torch.tensor([0.5, -2.0]), bits, one * torch.inf, one, one, 0)
        tensor([ 0., -2.])
    """
    vectors = MaskScalars(mu, slope, center)
    if transforming():
        tell_of_transforms(weight, mu[index])
        return _transformable(weight, bits, vectors.at(index))
    if is_compiling() and not is_exporting() and weight.device.type == "cpu":
        whole: Tensor = opaque_weight.masked(weight, bits, vectors, index)
        return whole
    out: Tensor = _MaskedWeight.apply(index, own, weight, bits, *vectors)  # type: ignore[no-untyped-call, unused-ignore]
    return flagged(out, weight)
