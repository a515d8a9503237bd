r"""Masks and weights column by column, as the optimal brain surgeon would.

Dropping weight i of a row costs ``u_i^2 / [H^-1]_ii``, and the other weights make up
for it best by ``-u_i [H^-1]_i / [H^-1]_ii``. Columns are passed once, in order; those
behind are settled, and the Cholesky factor of ``H^-1`` holds the inverses of what is
ahead. The mask is chosen anew before each block of columns, among all that are not
settled.

Source: Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned
in One-Shot", ICML 2023 (arXiv 2301.00774). There every block of columns keeps the same
share, and the kept weights are left as the pass leaves them; here they are fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsefx.pruning.choice import Choice
from sparsefx.pruning.least_squares import least_squares
from sparsefx.pruning.quadratic import Quadratic

_COLUMNS = 128


def obs(layer: Quadratic, choose: Choice) -> tuple[Tensor, Tensor]:
    """Scaled weights and mask of a layer; see the module.

    Args:
        layer: scaled weight and moments.
        choose: maps energies to a mask.
    """
    weight = layer.target.clone()
    size = weight.shape[-1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(layer.inputs.matrix()))
    factor = torch.linalg.cholesky(inverse, upper=True)
    spread = factor.diagonal(dim1=1, dim2=2)[:, None]
    mask = torch.ones_like(weight, dtype=torch.bool)
    width = -(-_COLUMNS // choose.width) * choose.width
    for begin in range(0, size, width):
        end = min(begin + width, size)
        energy = (weight / spread).square()
        settled = energy[..., :begin]
        settled.copy_(mask[..., :begin] * (2 * energy.max() + 1))
        mask[..., begin:end] = choose(energy)[..., begin:end]
        ahead = factor[:, begin:end]
        errors = torch.zeros_like(weight[..., begin:end])
        for column in range(begin, end):
            kept = weight[..., column] * mask[..., column]
            pivot = ahead[:, None, column - begin, column]
            error = (weight[..., column] - kept) / pivot
            weight[..., column] = kept
            rest = ahead[:, None, column - begin, column + 1 : end]
            weight[..., column + 1 : end] -= error[..., None] * rest
            errors[..., column - begin] = error
        weight[..., end:] -= errors @ ahead[..., end:]
    return least_squares(layer, mask, weight), mask
