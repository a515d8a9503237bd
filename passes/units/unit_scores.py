r"""What units are worth: first-order scores of what they compute, and weight norms.

For a unit with outputs :math:`A_{b,i}` (sample b; i over tokens and channels) and the
loss's gradient :math:`G = dL/dA` at the gated output,

    taylor = mean_b |sum_i A_{b,i} G_{b,i}|      growth = mean_b sum_i |G_{b,i}|

The absolute value is taken for each sample: over the batch, signs would cancel.
Source: Chen et al., "Chasing Sparsity in Vision Transformers", 2021 (arXiv
2106.04533); the authors' rules are those for heads. Theirs for the growth of neurons,
the gradient of weights that are zero on both sides, is zero for every neuron that was
never active, so that nothing new grows; ``taylor``, with the weights kept under the
gate, is the size of the gate's gradient and does not vanish.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsefx.passes.units.unit_map import UnitGroup


def by_unit(values: Tensor, owner: Tensor, size: int, dim: int) -> Tensor:
    """Sums each sample's entries by the unit that owns them.

    Args:
        values: any shape, samples first.
        owner: unit of each index of ``dim``, -1 for none.
        size: number of units.
        dim: the dimension that units divide; not the first.

    Returns:
        (samples, units).

    Example:
        >>> by_unit(torch.ones(2, 3, 4), torch.tensor([0, 0, 1, -1]), 2, 2).tolist()
        [[6.0, 3.0], [6.0, 3.0]]
    """
    lines = (
        values.movedim(dim, -1).flatten(1, -2) if values.ndim > 2 else values[:, None]
    )
    sums = lines.sum(1)
    found = sums.new_zeros(values.shape[0], size + 1)
    found.index_add_(1, owner % (size + 1), sums)  # -1 goes to the last column
    return found[:, :size]


def taylor(
    value: Tensor, gradient: Tensor, owner: Tensor, size: int, dim: int
) -> Tensor:
    """First-order change of the loss when a unit goes: per sample, then the mean.

    Example:
        >>> a = torch.tensor([[[1.0, 2.0]], [[2.0, 0.0]]])  # samples, tokens, heads
        >>> g = torch.tensor([[[0.5, 0.1]], [[-0.5, 0.4]]])
        >>> taylor(a, g, torch.arange(2), 2, 2).tolist()
        [0.75, 0.10000000149011612]
    """
    return by_unit((value * gradient).float(), owner, size, dim).abs().mean(0)


def growth(gradient: Tensor, owner: Tensor, size: int, dim: int) -> Tensor:
    """How much the loss asks of a unit's output: the mean sum of absolute gradients.

    Example:
        >>> g = torch.tensor([[[0.5, 0.1]], [[-0.5, 0.3]]])
        >>> growth(g, torch.arange(2), 2, 2).tolist()
        [0.5, 0.20000000298023224]
    """
    return by_unit(gradient.float().abs(), owner, size, dim).mean(0)


def magnitudes(group: UnitGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    """The L1 norm of the weights that each unit owns: its rows and its columns.

    Args:
        group: the units.
        tensors: weights by name; others that the group owns do not count.

    Returns:
        float32, one entry a unit.
    """
    found = torch.zeros(group.size)
    for share in group.tensors:
        weight = tensors.get(share.name)
        if weight is None or weight.ndim < 2:
            continue
        lines = weight.detach().float().abs().movedim(share.dim, 0)
        sums = lines.reshape(len(share.owner), -1).sum(1).cpu()
        own = share.owner >= 0
        found.index_add_(0, share.owner[own], sums[own])
    return found
