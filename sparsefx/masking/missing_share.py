"""Says where a gradient lacks the share that weights have through the budget.

The share that ties all weights together (`sparsefx.masking.budget_gradient`) is added
to ``.grad`` when a whole backward pass ends, and as a number. Masks that stand still
have no such share: their gradients are exact on every route.

Weights take part in a pass by their number; `torch.func.functional_call` may have put
another tensor in the place of the model's own. A leaf gets the share in its own
``.grad``, anything else goes without, and that is told.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.torch_internals import backward_number, tracks_gradients, will_reach

_LACKS = "this gradient lacks the budget's share"
_ADVICE = "call loss.backward() and read .grad, which is exact"
_PARTS = "_sparsefx_parts"  # of the multipliers: what takes part in each pass


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


def take_part(mu: Tensor, index: int, weight: Tensor | None) -> bool:
    """Notes, while a gradient is computed, whose it is.

    Args:
        mu: the multipliers, a leaf that each whole backward pass reaches.
        index: which site.
        weight: what stands for its weight; None if nothing is to be done to its
            gradient when the pass has ended.

    Returns:
        Whether the pass will be whole, or nobody is interested.
    """
    number = backward_number()
    if number < 0 or not mu.requires_grad:
        return True
    passes = vars(mu).setdefault(_PARTS, {})  # one may run within another
    if number not in passes:  # to ask the engine is slow: once a pass
        if not will_reach(mu):
            return False
        passes[number] = {}
    if weight is None:
        return True
    parts = passes[number]
    own = weakref.ref(weight) if weight.is_leaf else None
    parts[index] = own if parts.get(index, own) is own else None
    return True


def parts_of(mu: Tensor, number: int, weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights of all sites in a backward pass that ends, to have their ``.grad``.

    Args:
        mu: the multipliers.
        number: of the pass.
        weights: the model's own.
    """
    found = list(weights)
    for index, known in vars(mu).get(_PARTS, {}).pop(number, {}).items():
        taken = None if known is None else known()
        if taken is None:
            taken = weights[index].detach()  # that has no gradient
            _say(
                f"{_LACKS}: it is that of a tensor that is no leaf, or of two in "
                "one place; call the model with leaves in the place of its parameters"
            )
        found[index] = taken
    return found


def forget(mu: Tensor, number: int) -> None:
    """Nobody needs to know what took part in a backward pass that ends.

    Example:
        >>> mu = torch.zeros(1, requires_grad=True)
        >>> forget(mu, 3)
    """
    vars(mu).get(_PARTS, {}).pop(number, None)


def tell_what_is_missing(mu: Tensor, index: int, weight: Tensor) -> bool:
    """Whether gradients of a soft mask will be whole; warns where they will not.

    Args:
        mu: as for `take_part`.
        index: as for `take_part`.
        weight: as for `take_part`.
    """
    whole = take_part(mu, index, weight)
    if not whole:
        _say(
            f"{_LACKS}: torch.autograd.grad and backward(inputs=...) end before it can "
            f"be added; {_ADVICE}"
        )
    return whole


def tell_of_scores(mu: Tensor, index: int, weight: Tensor | None) -> bool:
    """Whether gradients become scores; warns where they do not.

    Args:
        mu: as for `take_part`.
        index: as for `take_part`.
        weight: as for `take_part`.
    """
    whole = take_part(mu, index, weight)
    if not whole:
        _say(
            "the next growth of the masks does not see this gradient: "
            "torch.autograd.grad and backward(inputs=...) end before it can; call "
            "loss.backward()"
        )
    return whole


def tell_of_transforms(weight: Tensor, mu: Tensor) -> None:
    """Warns where `torch.func` differentiates a soft masked weight."""
    if tracks_gradients(weight) and bool(mu.isfinite().all()):
        _say(f"{_LACKS}: torch.func cannot add it; {_ADVICE}")


def tell_units_of_transforms(value: Tensor) -> None:
    """Warns where `torch.func` differentiates what units compute."""
    if tracks_gradients(value):
        _say(
            "the units' scores do not see this gradient: torch.func cannot add them; "
            "call loss.backward()"
        )


def taken_by_a_hook(weight: Tensor) -> bool:
    """Whether a hook took the gradient before the backward pass ended; warns."""
    hooks: Any = getattr(weight, "_post_accumulate_grad_hooks", None)
    taken = weight.grad is None and bool(hooks)
    if taken:
        say_it_was_taken()
    return taken


def say_it_was_taken() -> None:
    """Warns of a gradient that was gone when the backward pass ended."""
    _say(
        f"{_LACKS}: a hook took it before the backward pass ended, as an optimizer "
        "in backward does; step after loss.backward()"
    )


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
