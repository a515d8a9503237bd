"""A masked weight that is stored as its kept entries, as layers see it.

The parameter holds the kept entries ``v``, row by row. A linear layer computes on them
alone (`sparsefx.kernels.support_products`), in float32 on a CPU; whatever else asks
sees the dense weight, made for it, with the gradient

    dL/dv = (dL/dw)_kept.

Where a learner grows entries by their gradients, ``dL/dw`` is made whole at that step
and goes to the scores as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsefx.errors import MaskError
from sparsefx.kernels.support_products import (
    Layout,
    forward,
    input_gradient,
    usable,
    value_gradient,
)
from sparsefx.masking.kept_masks import KeptMasks
from sparsefx.masking.layer_weight import (
    LayerWeight,
    aliases,
    each,
    masked_of,
    of_initialisers,
    speaks_of_parameters,
    writes,
)
from sparsefx.masking.missing_share import tell_of_scores
from sparsefx.torch_internals import (
    as_kind,
    is_compiling,
    is_plain,
    transforming,
)

_DESCRIBES = {"device", "dtype", "is_cpu", "is_cuda", "layout", "ndim", "shape"}
_MEASURES = {"__len__", "dim", "is_floating_point", "nelement", "numel", "size"}


@dataclass(frozen=True, slots=True)
class Entries:
    """The kept entries of a weight.

    Attributes:
        values: the parameter, shape `column`.
        mask: where they stand, bool, in the weight's shape.
        mu: the multipliers, which every whole backward pass reaches.
        kept: masks and scores of the model.
        index: which weight.
        layout: of the mask; asked for where the kernels are used.
    """

    values: Tensor
    mask: Tensor
    mu: Tensor
    kept: KeptMasks
    index: int
    layout: Callable[[], Layout]

    def seen(self, gradient: Tensor, grows: bool) -> None:
        """Takes a dense gradient for the scores, at the steps at which they count."""
        if grows and tell_of_scores(self.mu, self.index, None):
            self.kept.add(self.index, gradient)


def column(entries: Tensor) -> Tensor:
    """Kept entries as a parameter holds them, shape ``(kept, 1, 1)``.

    Rules that spare vectors the decay take it for a weight, and those of matrices
    (Muon, averages of whole weights) refuse it.
    """
    return entries.reshape(-1, 1, 1)


def dense(values: Tensor, mask: Tensor) -> Tensor:
    """The weight with these kept entries, differentiable.

    Example:
        >>> dense(column(torch.tensor([2.0])), torch.tensor([[False, True]]))
        tensor([[0., 2.]])
    """
    none = values.new_zeros(mask.shape)
    return none.masked_scatter(mask, values)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, mu: Tensor, entries: Entries) -> Tensor:
        ctx.entries, ctx.grows = entries, entries.kept.wanted
        ctx.save_for_backward(entries.mask)  # it may not move before backward
        return dense(values, entries.mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (mask,), entries = ctx.saved_tensors, ctx.entries
        g = grad.to_dense() if grad.is_sparse else grad
        entries.seen(g, ctx.grows)
        return column(g[mask]), torch.zeros_like(entries.mu), None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TK: Tensor,
        values: Tensor,
        bias: Tensor | None,
        mu: Tensor,
        entries: Entries,
    ) -> Tensor:
        where, mask = entries.layout(), entries.mask
        ctx.entries, ctx.where, ctx.grows = entries, where, entries.kept.wanted
        ctx.save_for_backward(x_TK, values, mask)
        return forward(x_TK, values.view(-1), bias, where, len(mask))

    @staticmethod
    def backward(ctx: Any, g_TN: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, values, mask = ctx.saved_tensors
        entries, where = ctx.entries, ctx.where
        wants_x, wants_v, wants_b = ctx.needs_input_grad[:3]
        again = torch.is_grad_enabled()  # it will be differentiated once more
        dx = dv = db = None
        if wants_x and again:
            dx = g_TN @ dense(values, mask)
        elif wants_x:
            dx = input_gradient(g_TN, values.view(-1), where, mask.shape[1])
        if wants_v and (again or ctx.grows):
            whole = g_TN.t() @ x_TK
            entries.seen(whole, ctx.grows)
            dv = column(whole[mask])
        elif wants_v:
            dv = column(value_gradient(g_TN, x_TK, where))
        if wants_b:
            db = g_TN.sum(0)
        return dx, dv, db, torch.zeros_like(entries.mu), None


class CompactWeight(LayerWeight):
    """The dense weight to all that look at it; only kept entries to linear layers."""

    _entries: Entries
    _like: Tensor  # of the same shape, device and precision
    _made: Tensor | None  # the dense weight, when it has been asked for

    @property
    def _masked(self) -> Tensor:  # type: ignore[override]
        if self._made is None:
            self._made = whole(self._entries)
        return self._made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs ``func`` on kept entries, on the dense weight, or on the parameter."""
        given, name = dict(kwargs or {}), func.__name__
        getter = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _MEASURES or (name == "__get__" and getter in _DESCRIBES):
            return func(*each(args, _like), **given)
        if func is functional.linear:
            found = _linear(*args, **given)
            if found is not None:
                return found
        if speaks_of_parameters(func) and not of_initialisers(func):
            return super().__torch_function__(func, types, args, kwargs)
        first: Any = args[0] if args else None
        changed = writes(name) or of_initialisers(func) or name == "__set__"
        if "out" in given or (changed and isinstance(first, CompactWeight)):
            raise MaskError(
                f"{name} would change a weight of shape {tuple(first.shape)} of which "
                "only kept entries are stored (execution='sparse'); change it in a "
                "block `with sparsefx.latent(model):`, by load_state_dict, or before "
                "sparsefx.transform"
            )
        plain = func(*each(args, masked_of), **each(given, masked_of))
        if isinstance(first, CompactWeight) and aliases(plain, first):
            return each(plain, lambda view: _shown(view, view, first._entries))
        return plain


def whole(entries: Entries) -> Tensor:
    """The dense weight, whose gradient is that of the kept entries."""
    if transforming():
        return dense(entries.values, entries.mask)
    found: Tensor = _Whole.apply(entries.values, entries.mu, entries)  # type: ignore[no-untyped-call, unused-ignore]
    return found


def compact_weight(entries: Entries) -> Tensor:
    """What layers show of kept entries.

    Raises:
        MaskError: a compiler asks.
    """
    if is_compiling():
        raise MaskError(
            "execution='sparse' runs kernels that compilers do not see; run the model "
            "without torch.compile, or set execution: masked"
        )
    if transforming():
        return whole(entries)
    like = entries.values.detach().new_empty(()).expand(entries.mask.shape)
    return _shown(like, None, entries)


def _like(tensor: Tensor) -> Tensor:
    return tensor._like if isinstance(tensor, CompactWeight) else tensor


def _shown(like: Tensor, made: Tensor | None, entries: Entries) -> Tensor:
    shown: Any = as_kind(like, CompactWeight)
    shown._like, shown._made = like, made
    shown._entries, shown._latent = entries, entries.values
    return shown  # type: ignore[no-any-return]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """The layer on kept entries; None where the kernels do not take it."""
    if not isinstance(weight, CompactWeight) or weight._made is not None:
        return None
    entries, x = weight._entries, input
    tensors = [x, entries.values, *([] if bias is None else [bias])]
    if not is_plain(*tensors) or torch.is_autocast_enabled(x.device.type):
        return None
    fits = x.ndim > 0 and x.shape[-1] == weight.shape[1] and x.numel() > 0
    if not (fits and all(usable(t) for t in tensors)):
        return None
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, entries.values, bias, entries.mu, entries)  # type: ignore[no-untyped-call, unused-ignore]
    return y.view(*x.shape[:-1], len(entries.mask))
