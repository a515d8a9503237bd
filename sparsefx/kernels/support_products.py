"""The three products of a linear layer of which only some weights exist.

With the kept entries ``v`` of a weight ``W`` (N, K), row by row, for T tokens

    y = x W^T + b,      dL/dx = g W,      dL/dv_e = sum_t g_{t n_e} x_{t k_e}

by `sparse_product` and `support.cpp`, each at the cost of the kept entries. Where these
stand is laid out once (`layout`); values change at every step and are put in order.
All are for what `usable` allows: float32, a CPU and a C++ compiler.

Shapes: N outputs, K features, T tokens, E kept entries.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsefx.kernels.compile_cpu import library
from sparsefx.kernels.sparse_product import Form, Packed, pack, pool, product, usable

__all__ = ["Layout", "forward", "input_gradient", "layout", "usable", "value_gradient"]

# Panels of 40 tokens by 256 features were the fastest of eight forms.
FORM = Form(256, 5)
_Long, _Pointer = ctypes.c_int64, ctypes.c_void_p
_EXTENT = _Long * 8  # `Extent` of support.cpp


class Layout(NamedTuple):
    """Where the kept entries of a matrix stand.

    Attributes:
        rows: the matrix as `Packed`; its ``values`` are numbers of entries, int32.
        columns: the transposed matrix likewise.
    """

    rows: Packed
    columns: Packed


def layout(mask: Tensor) -> Layout:
    """Lays out the entries at which ``mask``, ``(N, K)``, bool, is true.

    Example:
        >>> found = layout(torch.tensor([[False, True], [True, True]]))
        >>> found.rows.values.tolist(), found.columns.values.tolist()
        ([0, 1, 2], [1, 0, 2])
    """
    numbers_NK = torch.zeros(mask.shape, dtype=torch.int32)
    kept = int(mask.count_nonzero())
    numbers_NK[mask] = torch.arange(1, kept + 1, dtype=torch.int32)
    return Layout(_numbered(numbers_NK), _numbered(numbers_NK.t()))


def _numbered(numbers: Tensor) -> Packed:
    packed = pack(numbers, FORM)
    return packed._replace(values=packed.values.view(-1) - 1)


def _filled(packed: Packed, values_E: Tensor) -> Packed:
    return packed._replace(values=values_E.index_select(0, packed.values)[:, None])


def forward(
    x_TK: Tensor, values_E: Tensor, bias: Tensor | None, where: Layout, outputs: int
) -> Tensor:
    """``x W^T + b``, ``(T, N)``.

    Example:
        >>> where = layout(torch.tensor([[False, True], [True, True]]))
        >>> x, values = torch.tensor([[1.0, 10.0]]), torch.tensor([2.0, 3.0, 4.0])
        >>> forward(x, values, torch.tensor([0.5, 0.0]), where, 2).tolist()
        [[20.5, 43.0]]
    """
    y_TN = x_TK.new_empty(len(x_TK), outputs)
    _multiply(x_TK, _filled(where.rows, values_E), bias, y_TN)
    return y_TN


def input_gradient(
    g_TN: Tensor, values_E: Tensor, where: Layout, features: int
) -> Tensor:
    """``g W``, ``(T, K)``.

    Example:
        >>> where = layout(torch.tensor([[False, True], [True, True]]))
        >>> g, values = torch.tensor([[1.0, 10.0]]), torch.tensor([2.0, 3.0, 4.0])
        >>> input_gradient(g, values, where, 2).tolist()
        [[30.0, 42.0]]
    """
    x_TK = g_TN.new_empty(len(g_TN), features)
    _multiply(g_TN, _filled(where.columns, values_E), None, x_TK)
    return x_TK


def _multiply(x: Tensor, packed: Packed, bias: Tensor | None, y: Tensor) -> None:
    own = None if bias is None else bias.contiguous()
    product(x.t()[None], packed, own, y.t()[None], FORM.vectors)


def value_gradient(g_TN: Tensor, x_TK: Tensor, where: Layout) -> Tensor:
    """``sum_t g x`` of every kept entry, ``(E,)``, row by row.

    Example:
        >>> where = layout(torch.tensor([[False, True], [True, True]]))
        >>> g, x = torch.tensor([[1.0, 10.0]]), torch.tensor([[2.0, 3.0]])
        >>> value_gradient(g, x, where).tolist()
        [3.0, 20.0, 30.0]
    """
    packed = where.rows
    found_E = x_TK.new_empty(len(packed.values))
    sizes = (len(x_TK), x_TK.shape[1], g_TN.shape[1], *x_TK.stride(), *g_TN.stride())
    _compiled()(
        torch.get_num_threads(),
        pool(),
        _EXTENT(*sizes, len(packed.blocks)),
        x_TK.data_ptr(),
        g_TN.data_ptr(),
        *(part.data_ptr() for part in packed[:4]),
        found_E.data_ptr(),
    )
    return torch.empty_like(found_E).index_copy_(0, packed.values.long(), found_E)


@functools.cache
def _compiled() -> Any:
    found = library()
    assert found is not None, "usable"
    sums: Any = found.support_gradient
    sums.argtypes, sums.restype = (_Long, *[_Pointer] * 9), None
    return sums
