"""Says where a gradient lacks the share that weights have through the budget.

The share that ties all weights together (`sparsefx.masking.budget_gradient`) is added
to ``.grad`` when a whole backward pass ends, and as a number. Masks that stand still
have no such share: their gradients are exact on every route.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.torch_internals import tracks_gradients, will_reach

_LACKS = "this gradient lacks the budget's share"
_ADVICE = "call loss.backward() and read .grad, which is exact"


class _FirstOnly(torch.autograd.Function):
    """The same values; differentiating them once more is refused."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, total: Tensor, *_: Tensor) -> Any:
        return local.view_as(local), total.view_as(total)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise MaskError(
            "the gradient of a soft masked weight cannot be differentiated again: a "
            "second derivative would take the budget's share for a constant; use it "
            "once masks stand still (freeze_step), or a learner that stores its masks"
        )


def first_only(local: Tensor, total: Tensor, *sources: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a soft mask; refuses to differentiate them again.

    Args:
        local: gradient of the weight.
        total: gradient of the multiplier.
        sources: what they were computed from.
    """
    if not torch.is_grad_enabled():
        return local, total
    found: Any = _FirstOnly.apply(local, total, *sources)  # type: ignore[no-untyped-call]
    return found[0], found[1]


def tell_what_is_missing(mu: Tensor) -> None:
    """Warns, while gradients of a soft mask are computed, of what they will not be.

    Args:
        mu: the multipliers, a leaf that each backward pass reaches.
    """
    if mu.requires_grad and not will_reach(mu):
        _say(
            f"{_LACKS}: torch.autograd.grad and backward(inputs=...) end before it can "
            f"be added; {_ADVICE}"
        )


def tell_of_transforms(weight: Tensor, mu: Tensor) -> None:
    """Warns where `torch.func` differentiates a soft masked weight."""
    if tracks_gradients(weight) and bool(mu.isfinite().all()):
        _say(f"{_LACKS}: torch.func cannot add it; {_ADVICE}")


def taken_by_a_hook(weight: Tensor) -> bool:
    """Whether a hook took the gradient before the backward pass ended; warns."""
    hooks: Any = getattr(weight, "_post_accumulate_grad_hooks", None)
    taken = weight.grad is None and bool(hooks)
    if taken:
        _say(
            f"{_LACKS}: a hook took it before the backward pass ended, as an optimizer "
            "in backward does; step after loss.backward()"
        )
    return taken


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
