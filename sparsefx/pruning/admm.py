r"""Masks and weights by splitting the layer's error from its sparsity.

    minimise  tr (U - W) H (U - W)'  +  [D is sparse]   subject to  U = D

The alternating direction method of multipliers minimises a quadratic over ``U``,
keeps the greatest squares of ``U + Y`` in ``D`` and adds what is left to the dual
``Y``, while the penalty rises; then the kept weights are fitted.

Source: Meng, Behdin, Wang, Mazumder, "ALPS: Improved Optimization for Highly Sparse
One-Shot Pruning for Large Language Models", NeurIPS 2024 (arXiv 2406.07831). There
penalties follow the mask's changes; here they rise by a fixed factor. The quadratic is
solved by eigenvectors of ``H``; where these would cost more than all else, or the root
of ``H`` is kept in its place, by a few conjugate gradients from the last answer, which
need products with ``H`` alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsefx.pruning.least_squares import least_squares
from sparsefx.pruning.quadratic import Quadratic

_FIRST, _LAST = 0.1, 0.7  # penalties, where the diagonal of H is 1
_WIDE = 16  # with so many inputs to an output, eigenvectors cost more than all else
_INNER = 3
_TINY = 1e-30


def admm(
    layer: Quadratic,
    choose: Callable[[Tensor], Tensor],
    iterations: int = 20,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scaled weights and mask of a layer; see the module.

    Args:
        layer: scaled weight and moments.
        choose: maps energies to a mask.
        iterations: of the splitting, at least 2; half as many of the fit, and some.
        start: scaled weights of more entries that were fitted; the dense ones if None.
    """
    pull = layer.inputs.times(layer.target)
    weight = layer.target if start is None else start
    mask = choose(weight.square())
    sparse = weight * mask
    dual = torch.zeros_like(weight)
    factor = (_LAST / _FIRST) ** (1 / (iterations - 1))
    rho = _FIRST
    for _ in range(iterations):
        weight = _nearest(layer, pull + rho * (sparse - dual), rho, weight)
        moved = weight + dual
        mask = choose(moved.square())
        sparse = moved * mask
        dual = (moved - sparse) / factor  # the scaled dual of the next penalty
        rho *= factor
    return least_squares(layer, mask, sparse, iterations // 2 + 4), mask


def _nearest(layer: Quadratic, right: Tensor, rho: float, start: Tensor) -> Tensor:
    """``U`` of ``U (H + rho I) = right``, from a guess if it has to be approached."""
    outputs, inputs = right.shape[1:]
    if layer.inputs.moments.matrix is not None and inputs <= _WIDE * outputs:
        values, vectors = layer.inputs.spectrum
        return (right @ vectors / (values + rho)[:, None]) @ vectors.mT
    times = layer.inputs.times
    u, residual = start, right - times(start) - rho * start
    direction = residual
    size = residual.square().sum(-1, keepdim=True)
    for _ in range(_INNER):
        pushed = times(direction) + rho * direction
        step = size / (direction * pushed).sum(-1, keepdim=True).clamp_min(_TINY)
        u, residual = u + step * direction, residual - step * pushed
        new = residual.square().sum(-1, keepdim=True)
        direction = residual + new / size.clamp_min(_TINY) * direction
        size = new
    return u
