"""Gradients of masked weights that ranks share, made when a backward pass has ended.

Autograd sees the masked weight as the parameter, so that what arrives in ``.grad`` is
``G = dL/d(h m w)``, of this rank's part, reduced over ranks that see other data. At the
end it becomes the gradient of the weight, as in `sparsefx.masking.masked_weight` and
`sparsefx.masking.budget_gradient`; all that is sent for it is a number a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.kernels.shards import Box
from sparsefx.masking.distribution import local_part
from sparsefx.torch_internals import backward_number

if TYPE_CHECKING:
    from sparsefx.masking.sparse_state import SparseState


class _Shown(torch.autograd.Function):
    """A masked weight as if it were the parameter; tells that a pass reaches it."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, masked: Tensor, mu: Tensor, shared: Any, index: int
    ) -> Tensor:
        ctx.shared, ctx.index = shared, index
        ctx.save_for_backward(mu)
        return masked.view_as(masked)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mu,) = ctx.saved_tensors
        ctx.shared.set_aside(ctx.index)
        # a gradient for mu, though it is 0: its hook tells that a backward pass ran
        return grad, None, torch.zeros_like(mu), None, None


@dataclass(slots=True, eq=False)
class Part:
    """One weight on this rank.

    Attributes:
        parameter: the whole weight, of which this rank holds a part.
        box: where the part lies.
        gathered: FSDP2 puts the whole masked weight in its place while layers run.
    """

    parameter: Tensor
    box: Box
    gathered: bool

    @property
    def local(self) -> Tensor:
        """The part itself, without gradient."""
        return local_part(self.parameter)


class RankGradients:
    """What backward passes leave in the gradients of shared weights.

    Args:
        parts: of the weights, by site number.
    """

    def __init__(self, parts: Mapping[int, Part]) -> None:  # noqa: D107
        self._parts = parts
        self._aside: tuple[int, dict[int, Tensor]] = (-1, {})

    def read(self, weight: Tensor, masked: Tensor, mu: Tensor, index: int) -> Tensor:
        """The masked weight, whose gradient goes to the weight as it is.

        Args:
            weight: what stands in the module.
            masked: of the same shape.
            mu: multipliers; their hook tells that a backward pass ran.
            index: which site.
        """
        found: Tensor = _Shown.apply(weight, masked, mu, self, index)  # type: ignore[no-untyped-call, unused-ignore]
        return found

    def set_aside(self, index: int) -> None:
        """Keeps the gradient so far apart from what this backward pass adds."""
        number = backward_number()
        last, kept = self._aside
        kept = kept if last == number else {}
        self._aside = number, kept
        parameter = self._parts[index].parameter
        if index not in kept and parameter.grad is not None:
            kept[index], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def finish(
        self, state: SparseState, number: int
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Makes ``.grad`` the local gradient.

        Args:
            state: of the weights.
            number: of the backward pass that has ended.

        Returns:
            The weights, or this rank's parts, with their gradients; and of each the
            vector that `Kernels.masked_backward` gives for ``mu``, None where the pass
            has left no gradient (those that FSDP2 adds up first come later).
        """
        last, aside = self._aside
        self._aside = (-1, {})
        weights, totals = (
            state.weights(),
            [torch.zeros_like(state.mu)] * len(state.names),
        )
        reached = False
        for index, part in self._parts.items():
            parameter, before = part.parameter, None
            if last == number:
                before = aside.get(index)
            if parameter.grad is not None:
                reached, grad = True, local_part(parameter.grad)
                totals[index] = _make_local(state, grad, weights[index], index)
                if before is not None:
                    local_part(before).add_(grad)
            if before is not None:
                parameter.grad = before
            weights[index] = _leaf(parameter, weights[index])
        return weights, totals if reached else None


def _make_local(state: SparseState, grad: Tensor, weight: Tensor, index: int) -> Tensor:
    """Makes a part's ``G`` its local gradient; ``sum G w s``, one entry a site."""
    if state.still is not None:
        grad.masked_fill_(~state.still[index], 0.0)
        return torch.zeros_like(state.mu)
    scalars = MaskScalars(state.mu, state.slope, state.center)
    maker = kernels_for([weight, grad])
    return maker.masked_backward(grad, weight, scalars, index, into=grad)[1]


def _leaf(parameter: Tensor, weight: Tensor) -> Tensor:
    """This rank's part as a leaf, with its part of the gradient."""
    leaf = weight.detach().requires_grad_(parameter.requires_grad)
    if parameter.grad is not None:
        leaf.grad = local_part(parameter.grad)
    return leaf
