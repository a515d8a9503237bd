"""Says where a gradient lacks the share that weights have through the budget."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sparsefx.torch_internals import will_reach


def tell_what_is_missing(mu: Tensor) -> None:
    """Warns, while gradients of a soft mask are computed, of what they will not be.

    The budget's share is added when ``backward()`` has gone through the whole graph,
    and as a number. Masks that stand still have no such share.

    Args:
        mu: the multipliers, a leaf that each backward pass reaches.
    """
    if torch.is_grad_enabled():
        _say(
            "create_graph=True: a second derivative takes soft masks and the budget's "
            "share of the gradient as constants, so it is not exact; use it once masks "
            "stand still, or a learner that stores its masks"
        )
    if mu.requires_grad and not will_reach(mu):
        _say(
            "this gradient lacks the budget's share: torch.autograd.grad and "
            "backward(inputs=...) end before it can be added; call loss.backward() and "
            "read .grad, which is exact"
        )


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
