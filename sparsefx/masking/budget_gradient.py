r"""The budget's share of the gradient, added when a backward pass ends.

Moving one weight moves the multiplier ``mu`` that all weights of a group share.
With ``T`` the group's ``sum_i G_i w_i s_i`` (gathered by autograd as the gradient of
``mu``), ``c`` the prices and ``S = sum_i c_i s_i``, every gradient of the group gets

    dL/dw_i  -=  sign(w_i) * slope * c_i * s_i * T / S

Several budgets that are spent to the last share multipliers: with ``q_bl = c_bl / p_l``
and the layers' common price p the factor of ``sign(w_i) slope_l p_l s_i`` is

    y . q_l,    (sum_l q_l q_l^T p_l S_l) y = sum_l q_l T_l

a system of as many equations as budgets, in place of ``T / S``.

Adding it inside autograd would hold every layer's gradient back until the whole
backward pass is done; here each layer's gradient is ready as in the dense model.
Source: Tai, Tian, Lim, "Spartan: Differentiable Sparsity via Regularized
Transportation", 2022 (arXiv 2205.14107), with the exact normaliser ``S``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.missing_share import taken_by_a_hook
from sparsefx.masking.weight_groups import Grouping


def shares(
    total: Tensor, groups: Tensor, spreads: Tensor, binding: Tensor | None = None
) -> Tensor:
    """``T / S`` of each site's group; 0 where the group's mask is not soft.

    Args:
        total: ``sum G w s`` of each site, shape (sites,).
        groups: group number of each site, in [0, sites).
        spreads: ``sum p m (1 - m)`` of each site.
        binding: ``q`` of several budgets, shape (budgets, sites); 0 for budgets that
            are not spent and sites that are alone. ``y . q`` replaces ``T / S`` for
            the others. One row, or none, is one budget.

    Example:
        >>> t = torch.tensor([1.0, 2.0, 5.0])
        >>> shares(t, torch.tensor([0, 0, 1]), torch.tensor([2.0, 4.0, 0.0]))
        tensor([0.5000, 0.5000, 0.0000])
    """
    zero = torch.zeros_like(total)
    alike = groups[:, None] == groups  # index_add has no fixed order on a GPU
    tops = torch.where(alike, total, zero).sum(1)
    bottoms = torch.where(alike, spreads, zero).sum(1)
    alone = torch.where(bottoms > 0, tops / bottoms, zero)
    if binding is None or len(binding) < 2:
        return alone
    matrix = (binding * spreads) @ binding.T
    unit = matrix.diagonal().sqrt()
    unit = torch.where(unit > 0, 1.0 / unit, unit)  # budgets have units of their own
    matrix = unit[:, None] * matrix * unit
    y = torch.linalg.pinv(matrix, hermitian=True) @ (unit * (binding @ total))
    return torch.where((binding != 0).any(0), (unit * y) @ binding, alone)


@torch.no_grad()
def couple(
    weights: Sequence[Tensor],
    total: Tensor,
    *,
    groups: Sequence[Grouping | None],
    scalars: MaskScalars,
    price: Tensor,
    shared: Tensor,
    spreads: Tensor,
    binding: Tensor | None = None,
) -> None:
    """Subtracts the coupling term from ``weight.grad`` of every site, in place.

    Where weights are kept in groups, through ``dv/dw`` of the groups' values.
    """
    factors = shares(total, shared, spreads, binding) * scalars.slope * price
    chosen = [i for i, weight in enumerate(weights) if weight.requires_grad]
    if spreads.device.type == "cpu":  # elsewhere to ask costs more than to add zeros
        active = spreads.tolist()
        chosen = [i for i in chosen if active[i] > 0]
    chosen = [i for i in chosen if not taken_by_a_hook(weights[i])]
    if not chosen:
        return
    values, grads = [], []
    for i in chosen:
        weight, cut = weights[i], groups[i]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        values.append(weight if cut is None else cut.values(weight))
        grads.append(weight.grad if cut is None else torch.zeros_like(values[-1]))
    vectors = [*scalars, factors]
    if len(chosen) < len(weights):  # a list as an index is read by the device: slow
        vectors = [vector[chosen] for vector in vectors]
    kernels_for([*values, *grads]).couple(values, grads, *vectors)
    for i, slopes in zip(chosen, grads, strict=True):
        weight, cut = weights[i], groups[i]
        if cut is not None and weight.grad is not None:
            weight.grad += cut.pull(weight, slopes)
