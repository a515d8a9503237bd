"""Gradients that become local where they lie, when the backward pass has ended.

The gradient ``G`` of a masked weight is as large as the weight. To write its local part
into a tensor of its own costs more than to compute it: memory that was not touched
before has to be found first. So ``G`` itself goes on to ``.grad``, where there is
nothing yet, and is replaced there before anybody looks.

Whoever looks earlier must see the local part. A gradient waits on a CPU, in a backward
pass that is whole, of the model's own parameter, and only if no hook asks for it.
"""

from __future__ import annotations

import weakref
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.missing_share import say_it_was_taken
from sparsefx.torch_internals import after_backward, backward_number

_LATE = "_sparsefx_late"  # of the multipliers: what waits in each pass that runs
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class _Waiting(dict[int, "weakref.ref[Tensor]"]):
    """Weights by number of a site; lives as long as the backward pass it is of."""

    def keep(self) -> None:
        """Is called at the end, and so held until then, or until the pass fails."""


def waits(mu: Tensor | None, index: int, weight: Tensor | None, grad: Tensor) -> bool:
    """Whether a gradient goes on as it is, to be made local by `localized`.

    Args:
        mu: the multipliers, which the pass that is under way reaches.
        index: which site.
        weight: the model's own parameter; None where it is another's.
        grad: with respect to its masked weight.
    """
    number = backward_number()
    if mu is None or weight is None:
        return False
    passes = _passes(mu)
    plain = (grad.layout, grad.dtype) == (torch.strided, weight.dtype)
    for late in list(passes.values()):
        known = late.get(index)
        if known is not None and known() is weight:
            return plain  # a second use, maybe in a pass within: gradients add up
    if (
        number < 0
        or torch.is_grad_enabled()
        or not (weight.is_cpu and weight.is_leaf and weight.requires_grad)
        or weight.grad is not None
        or any(getattr(weight, name) for name in _HOOKS)
        or not plain
    ):
        return False
    if number not in passes:
        passes[number] = late = _Waiting()
        after_backward(late.keep)
    passes[number][index] = weakref.ref(weight)
    return True


def _passes(mu: Tensor) -> MutableMapping[int, _Waiting]:
    found: MutableMapping[int, _Waiting] = vars(mu).setdefault(
        _LATE, weakref.WeakValueDictionary()
    )
    return found


@torch.no_grad()
def localized(number: int, scalars: MaskScalars) -> Tensor:
    """Makes the gradients that have waited local; the gradient of ``mu`` by them.

    Args:
        number: of the backward pass that ends.
        scalars: of all sites.
    """
    total = torch.zeros_like(scalars.mu)
    for index, known in _passes(scalars.mu).pop(number, _Waiting()).items():
        weight: Any = known()
        if weight is None:
            continue
        if weight.grad is None:
            say_it_was_taken()
            continue
        grad: Tensor = weight.grad
        maker = kernels_for([weight, grad])
        total += maker.masked_backward(grad, weight, scalars, index, into=grad)[1]
        torch.autograd.graph.increment_version(grad)
    return total
