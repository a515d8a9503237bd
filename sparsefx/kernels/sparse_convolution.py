"""Sparse convolutions, float32 on a CPU, without the matrix of their windows.

`pack` of `sparse_product` lays out the kernel as a matrix, a row an output channel;
`convolution.cpp` reads each weight's pixels where they are.

Shapes: B batch, C channels, N outputs, H and W height and width.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsefx.kernels.activation import ACTIVATIONS, activation_number
from sparsefx.kernels.compile_cpu import library
from sparsefx.kernels.sparse_product import Packed, in_torch, pool, usable

_Long, _Pointer = ctypes.c_int64, ctypes.c_void_p
_WINDOW = _Long * 17  # `Window` of convolution.cpp


class After(NamedTuple):
    """What becomes of the sums: ``activation(scale * sum + shift)``.

    Attributes:
        scale: ``(N,)``; one if None.
        shift: ``(N,)``; zero if None.
        activation: one of `ACTIVATIONS`.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    activation: str = "none"

    def __call__(self, sums: Tensor) -> Tensor:
        """The same in torch, of ``(B, N, H, W)``."""
        y = sums if self.scale is None else sums * self.scale[:, None, None]
        y = y if self.shift is None else y + self.shift[:, None, None]
        return ACTIVATIONS[self.activation](y)


def unfolded(
    x: Tensor, packed: Packed, window: Sequence[int], after: After, outputs: int
) -> Tensor:
    """The convolution in plain torch: the product of the matrix of windows.

    Example:
        >>> from sparsefx.kernels.sparse_product import Form, pack
        >>> packed = pack(torch.tensor([[1.0, 0.0, 2.0]]), Form(128, 8))
        >>> x = torch.arange(5.0).reshape(1, 1, 1, 5)
        >>> unfolded(x, packed, (1, 3, 1, 1, 0, 0, 1, 1), After(), 1).flatten().tolist()
        [4.0, 7.0, 10.0]
    """
    kernel, stride, padding, dilation = (tuple(window[i : i + 2]) for i in (0, 2, 4, 6))
    x_BKT = functional.unfold(x, kernel, dilation, padding, stride)
    batch, features, _ = x_BKT.shape
    x_KM = x_BKT.transpose(0, 1).reshape(features, -1).contiguous()
    y_NM = in_torch(x_KM, packed, outputs)
    y_BNT = y_NM.reshape(outputs, batch, -1).transpose(0, 1)
    return after(y_BNT.reshape(batch, outputs, *size_of(x, window)))


def size_of(x: Tensor, window: Sequence[int]) -> tuple[int, int]:
    """Height and width of the result.

    Example:
        >>> size_of(torch.ones(1, 1, 8, 7), (3, 3, 2, 2, 1, 1, 1, 1))
        (4, 4)
    """
    kernel, step, pad, gap = (window[i : i + 2] for i in (0, 2, 4, 6))
    height, width = (
        (x.shape[2 + i] + 2 * pad[i] - gap[i] * (kernel[i] - 1) - 1) // step[i] + 1
        for i in (0, 1)
    )
    return height, width


def convolve(
    x_BCHW: Tensor,
    packed: Packed,
    window: Sequence[int],
    after: After,
    y_BNHW: Tensor,
    vectors: int,
) -> None:
    """Writes the convolution of ``x`` into ``y``, contiguous.

    Args:
        x_BCHW: activations.
        packed: of the kernel as a matrix ``(N, C * height * width)``.
        window: kernel, stride, padding and dilation, each height and width.
        after: what follows.
        y_BNHW: what is written.
        vectors: as of the `Form`.

    Example:
        >>> from sparsefx.kernels.sparse_product import Form, pack
        >>> weight = torch.tensor([[1.0, 0.0, 2.0]])
        >>> x = torch.arange(5.0).reshape(1, 1, 1, 5)
        >>> y = torch.empty(1, 1, 1, 3)
        >>> window = (1, 3, 1, 1, 0, 0, 1, 1)
        >>> convolve(x, pack(weight, Form(128, 8)), window, After(), y, 8)
        >>> y.flatten().tolist()
        [4.0, 7.0, 10.0]
    """
    if not (usable(x_BCHW) and usable(packed.values)):
        y_BNHW.copy_(unfolded(x_BCHW, packed, window, after, y_BNHW.shape[1]))
        return
    x = x_BCHW.contiguous()
    sizes = [*x.shape, *y_BNHW.shape[1:]]
    if tuple(window) == (1, 1, 1, 1, 0, 0, 1, 1):  # one long line
        pixels = x.shape[2] * x.shape[3]
        sizes = [*x.shape[:2], 1, pixels, y_BNHW.shape[1], 1, pixels]
    tensors = (after.scale, after.shift, *packed[:5])
    places = [None if t is None else t.data_ptr() for t in tensors]
    _compiled()(
        torch.get_num_threads(),
        pool(),
        _WINDOW(*sizes, *window, len(packed.blocks), vectors),
        x.data_ptr(),
        y_BNHW.data_ptr(),
        *places[:2],
        activation_number(after.activation),
        *places[2:],
    )


@functools.cache
def _compiled() -> Any:
    found = library()
    assert found is not None  # `usable` has asked
    run = found.sparse_convolution
    run.argtypes = (_Long, *[_Pointer] * 6, _Long, *[_Pointer] * 5)
    run.restype = None
    return run
