"""What happens to the gradients of masked weights when a backward pass has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.budget_gradient import couple
from sparsefx.masking.late_gradients import localized
from sparsefx.masking.missing_share import forget, parts_of
from sparsefx.masking.rank_means import mean_over_ranks

if TYPE_CHECKING:
    from sparsefx.masking.sparse_state import SparseState


def complete(state: SparseState, number: int, total: Tensor) -> None:
    """Makes the gradients of all sites whole, or takes them as scores.

    Args:
        state: of the weights.
        number: of the backward pass.
        total: ``sum G w s`` of every site, as this pass has gathered it.
    """
    kept, shared = state.kept, state.shared
    scalars = MaskScalars(state.mu, state.slope, state.center)
    total = total + localized(number, scalars)
    if shared is not None:
        weights, total = shared.finish(number, total)
    if state.still is not None or (kept is not None and not kept.wanted):
        forget(state.mu, number)
        return
    if shared is None:
        weights = parts_of(state.mu, number, state.weights())
    if kept is not None:
        kept.gather(weights)
        return
    couple(
        weights,
        mean_over_ranks(total, state.data) if shared is None else total,
        groups=state.groups(),
        scalars=scalars,
        price=state.price,
        shared=state.group,
        spreads=state.spread,
        binding=state.binding,
    )
    for around in filter(None, (state.units, state.candidates)):
        for index, weight in enumerate(weights):
            if weight.grad is not None:  # what is shut out has no share
                weight.grad = around.opened(weight.grad, index)
