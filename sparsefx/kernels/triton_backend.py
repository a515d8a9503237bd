"""The kernels on a GPU, through Triton; see `sparsefx.kernels.Kernels`.

`masked`, `masked_backward` and `couple` are Triton kernels; the first two are operators
of ``torch.library``, so that a tracer keeps them whole. Under `torch.compile` the plain
version runs instead: Inductor fuses it with the cast and with what stands around it.

The sweeps that answer to the host are those of the reference: on a GPU a step does
without them, see `sparsefx.solver.device_solver`.

With ``TRITON_INTERPRET=1`` everything runs on CPU tensors, slowly, without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import reference
from sparsefx.kernels.mask_rule import MaskScalars, alone
from sparsefx.kernels.reference import (
    distinct,
    find,
    hard_masks,
    histogram,
    soft_sums,
    survey,
)
from sparsefx.kernels.tensor_layout import layout, pieces, readable

__all__ = [
    "couple",
    "distinct",
    "find",
    "hard_masks",
    "histogram",
    "masked",
    "masked_backward",
    "soft_sums",
    "survey",
    "usable",
]

_SPAN = 256
_CHUNK = 16384  # entries of one program of `couple`


@functools.cache
def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def usable(tensors: Sequence[Tensor]) -> bool:
    """Whether these kernels can work on these tensors.

    Example:
        >>> usable([torch.ones(2, dtype=torch.float64)])
        False
    """
    here = all(t.is_cuda for t in tensors) or os.environ.get("TRITON_INTERPRET") == "1"
    return here and installed() and all(readable([t]) for t in tensors)


def masked(weight: Tensor, bits: Tensor, scalars: MaskScalars, index: int) -> Tensor:
    """See `Kernels.masked`."""
    out: Tensor = _masked(weight, bits, scalars.at(index), weight.dtype)
    return out


def masked_backward(
    grad: Tensor,
    weight: Tensor,
    scalars: MaskScalars,
    index: int,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `Kernels.masked_backward`."""
    local, total = _masked_backward(grad, weight, scalars.at(index))
    found = local if into is None else into.copy_(local)
    return found, alone(total, scalars.mu, index)


@torch.library.custom_op("sparsefx::masked", mutates_args=())
def _masked(
    weight: Tensor, bits: Tensor, scalars: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """``h m w`` in `dtype`, in one launch."""
    from sparsefx.kernels import triton_masked as kernels

    out = torch.empty_like(weight, dtype=dtype)
    kernels.forward[_grid(weight)](
        weight.detach(),
        bits,
        out,
        *(x.detach() for x in scalars),
        weight.numel(),
        *_strides(weight),
        BLOCK=kernels.BLOCK,
    )
    return out


@torch.library.custom_op("sparsefx::masked_backward", mutates_args=())
def _masked_backward(
    grad: Tensor, weight: Tensor, scalars: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The local gradient, and ``sum G w s`` as a float64 scalar."""
    from sparsefx.kernels import triton_masked as kernels

    local = torch.empty_like(weight)
    if grad.stride() != weight.stride():  # stored in another order
        grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
    grid = _grid(weight)
    partial = weight.new_empty(grid, dtype=torch.float64)
    total = weight.new_empty((), dtype=torch.float64)
    kernels.backward[grid](
        grad,
        weight.detach(),
        local,
        partial,
        *(x.detach() for x in scalars),
        weight.numel(),
        BLOCK=kernels.BLOCK,
    )
    kernels.add_up[(1,)](partial, total, partial.numel(), SPAN=_SPAN)
    return local, total


@_masked.register_fake
def _(
    weight: Tensor, bits: Tensor, scalars: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(weight, dtype=dtype)


@_masked_backward.register_fake
def _(grad: Tensor, weight: Tensor, scalars: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty((), dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, _, scalars, _ = inputs
    ctx.save_for_backward(weight, *scalars)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, *scalars = ctx.saved_tensors
    local, total = _masked_backward(grad, weight, scalars)
    return local, None, [total, *[None] * (len(scalars) - 1)], None


_masked.register_autograd(_differentiate, setup_context=_save)


def couple(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    factor: Tensor,
) -> None:
    """See `Kernels.couple`; one launch for all that are stored alike."""
    from sparsefx.kernels import triton_masked as kernels

    fast = [
        i
        for i, (weight, grad) in enumerate(zip(weights, grads, strict=True))
        if grad.stride() == weight.stride() and readable([weight, grad])
    ]
    for dtype in sorted({weights[i].dtype for i in fast}, key=str):
        mine = [i for i in fast if weights[i].dtype == dtype and weights[i].numel()]
        if not mine:
            continue
        numels = [weights[i].numel() for i in mine]
        cut = _cut(tuple(numels), mu.device)
        rows = (
            [weights[i].data_ptr() for i in mine],
            [grads[i].data_ptr() for i in mine],
            numels,
            cut[1],
            mine,
        )
        kernels.correct[(len(cut[0]),)](
            cut[0],
            to_device(torch.tensor(rows), mu.device),
            mu.detach(),
            slope,
            center,
            factor,
            len(mine),
            ELEMENT=element(dtype),
            CHUNK=_CHUNK,
            BLOCK=kernels.BLOCK,
        )
    for i in set(range(len(weights))).difference(fast):
        scalars = (x[i : i + 1].detach() for x in (mu, slope, center, factor))
        reference.couple([weights[i]], [grads[i]], *scalars)
    torch.autograd.graph.increment_version([grads[i] for i in fast])


def element(dtype: torch.dtype) -> Any:
    """Triton's name of a type."""
    import triton.language as tl

    names = {
        torch.float32: tl.float32,
        torch.bfloat16: tl.bfloat16,
        torch.float16: tl.float16,
    }
    return names[dtype]


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """A copy that the host does not wait for."""
    if device.type != "cuda":
        return table
    return table.pin_memory().to(device, non_blocking=True)


@functools.lru_cache(maxsize=16)
def _cut(numels: tuple[int, ...], device: torch.device) -> tuple[Tensor, list[int]]:
    """The pieces of these tensors, on the device."""
    cut = pieces(numels, _CHUNK)
    return to_device(cut.owner, device), list(cut.first)


def _grid(weight: Tensor) -> tuple[int]:
    from sparsefx.kernels.triton_masked import BLOCK

    return (max(-(-weight.numel() // BLOCK), 1),)


def _strides(weight: Tensor) -> tuple[int, int]:
    found = layout(weight)
    assert found is not None, "usable() has asked for the layout"
    return found.inner, found.outer
