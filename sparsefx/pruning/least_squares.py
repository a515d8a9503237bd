"""The best values of the weights that are kept, row by row."""

from __future__ import annotations

from torch import Tensor

from sparsefx.pruning.quadratic import Quadratic

_TINY = 1e-30


def least_squares(
    layer: Quadratic, mask: Tensor, start: Tensor, iterations: int = 20
) -> Tensor:
    """Minimises the layer's error over weights that are 0 outside the mask.

    Conjugate gradients on ``M H M u = M H w``, all rows at once; the diagonal is 1
    already.

    Args:
        layer: scaled weight and moments.
        mask: bool, like the weight.
        start: a guess, scaled.
        iterations: at most; more are no use beyond the number of inputs.

    Example:
        >>> import torch
        >>> from sparsefx.pruning.moments import Moments
        >>> from sparsefx.pruning.quadratic import Inputs
        >>> inputs = Inputs.of(Moments(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), None),
        ...                    damp=1e-9)
        >>> layer = Quadratic.of(torch.tensor([[[2.0, 2.0]]]), inputs)
        >>> mask = torch.tensor([[[True, False]]])
        >>> layer.back(least_squares(layer, mask, layer.target * mask))
        tensor([[[3., 0.]]])
    """
    times = layer.inputs.times
    u = start * mask
    residual = times(layer.target - u) * mask
    direction = residual.clone()
    size = residual.square().sum(-1, keepdim=True)
    enough = 1e-14 * size.sum()
    for _ in range(min(iterations, u.shape[-1])):
        if size.sum() <= enough:
            break
        pushed = times(direction) * mask
        curve = (direction * pushed).sum(-1, keepdim=True).clamp_min(_TINY)
        step = size / curve
        u = u + step * direction
        residual = residual - step * pushed
        new = residual.square().sum(-1, keepdim=True)
        direction = residual + new / size.clamp_min(_TINY) * direction
        size = new
    return u * mask
