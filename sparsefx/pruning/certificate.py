r"""How much better any other weights of as many entries could be, at most.

For a layer's damped quadratic with target ``t`` and ``b = H t``, a diagonal ``D`` with
``Q = H - D`` positive semi-definite, and any ``y``, every ``u`` of an allowed mask has

    (u - t)' H (u - t)  >=  t' H t - y' Q y - max_mask sum_mask (b - Q y)_i^2 / D_i

since ``u' Q u >= 2 y' Q u - y' Q y``. The right side is concave in ``y`` and is raised
from the weights found, by steps towards the ``u`` that attains it. It says much where
inputs are almost independent, and little where they are correlated, as behind dense
layers mostly; then the answer says so. Of depthwise kernels all masks are tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsefx.pruning.choice import Choice
from sparsefx.pruning.enumerated import Enumerated, can_enumerate
from sparsefx.pruning.quadratic import Quadratic

_STEPS = 40
_SAFE = 1 - 1e-6  # of the largest diagonal, for rounding
_TINY = 1e-12


def least_share(layer: Quadratic, choose: Choice, scaled: Tensor) -> float:
    """The least error there can be over the one that was reached, in [0, 1].

    Both count the ridge. 1 is optimal, 0 says nothing.

    Args:
        layer: scaled weight and moments.
        choose: maps energies to the mask of greatest energy.
        scaled: the weights found, scaled.

    Example:
        >>> from sparsefx.masking.site import Site
        >>> from sparsefx.pruning.moments import Moments
        >>> from sparsefx.pruning.products import Form
        >>> from sparsefx.pruning.quadratic import Inputs
        >>> inputs = Inputs.of(Moments(torch.eye(3)[None], None), damp=0.01)
        >>> layer = Quadratic.of(torch.tensor([[[1.0, 2.0, 3.0]]]), inputs)
        >>> choose = Choice(Site("w", "", "linear", (1, 3), {}), Form((1, 3)), 2)
        >>> found = layer.target * torch.tensor([0.0, 1.0, 1.0])
        >>> round(least_share(layer, choose, found), 4)  # independent inputs
        1.0
    """
    matrix, target = layer.inputs.matrix().double(), layer.target.double()
    off = scaled.double() - target
    reached = float(((off @ matrix) * off).sum())
    whole = float(((target @ matrix) * target).sum())
    if reached <= _TINY * whole:
        return 1.0
    if can_enumerate(layer, choose):
        best = Enumerated.of(layer)
        kept = best.choose(choose.count).to(best.losses.device)
        least = float(best.losses.gather(1, kept[:, None]).sum())
    else:
        least = _bound(matrix, target, choose, scaled.double(), whole)
    return min(max(least / reached, 0.0), 1.0)


def _bound(
    matrix: Tensor, target: Tensor, choose: Choice, start: Tensor, whole: float
) -> float:
    diagonal = _under(matrix)[:, None]
    rest = matrix - torch.diag_embed(diagonal[:, 0])
    pull, y, best = target @ matrix, start, 0.0
    for step in range(_STEPS):
        pushed = y @ rest
        free = pull - pushed
        energy = free.square() / diagonal
        mask = choose(energy)
        least = whole - float((pushed * y).sum()) - float(energy[mask].sum())
        best = max(best, least)
        y = torch.lerp(y, torch.where(mask, free / diagonal, 0.0), 2 / (step + 3))
    return best


def _under(matrix: Tensor) -> Tensor:
    """A diagonal, as large as its direction allows, that the matrix exceeds.

    Its direction are the variances that inputs have when all others are known.
    """
    own = 1 / torch.linalg.inv(matrix).diagonal(dim1=1, dim2=2)
    root = own.sqrt()
    scaled = matrix / root[:, :, None] / root[:, None]
    least = torch.linalg.eigvalsh(scaled)[:, :1].clamp_min(0.0)
    found: Tensor = own * least * _SAFE
    return found.clamp_min(torch.finfo(matrix.dtype).tiny)
