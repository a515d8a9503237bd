"""The sparse products as operators that `torch.compile` leaves alone.

Each calls a kernel of torch on feature-major activations. Compilers see only shapes
and strides, so what lies between two products is fused and they are not looked into.

``torch.ops.sparsefx`` has ``tiles_mm`` for tiles ``(N, K, W)``, ``csr_mm`` and
``bsr_mm`` for ``(K, M)``; a weight is ``offsets, columns, values``, with values of
shape ``(blocks, rows, columns)`` for ``bsr_mm``. ``packed_mm`` takes what
`sparsefx.kernels.sparse_product` packs, and activations ``(..., K)`` or ``(B, K, T)``;
``packed_conv`` takes images, and may scale and shift; both apply an activation last.
``int8_linear`` is torch's own dense layer in int8, whose packed weights are no tensors.
Where a graph is exported, `in_aten` stands for them: it runs without sparsefx.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from sparsefx.kernels.sparse_convolution import After, convolve, size_of
from sparsefx.kernels.sparse_product import Packed, product
from sparsefx.torch_internals import int8_linear, int8_packed, silence_sparse


def gathered_sum(
    x_KW: Tensor, offsets: Tensor, columns: Tensor, values: Tensor
) -> Tensor:
    """``W @ x`` for W in compressed rows: every row adds up the rows of x it names.

    This is what an embedding bag computes, and torch's kernel for it keeps a whole
    row of the result in registers, which its product of a CSR matrix does not.

    Args:
        x_KW: features by tokens, contiguous.
        offsets: where each row of W begins in ``columns``, and its end, int32.
        columns: column of each kept weight, int32.
        values: kept weights, in the type of x.

    Example:
        >>> w = compressed(torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0]]))
        >>> x = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
        >>> gathered_sum(x, *w)
        tensor([[ 4., 40.],
                [ 0.,  0.],
                [ 3., 30.]])
    """
    return functional.embedding_bag(
        columns,
        x_KW,
        offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def _tiles(x_NKW: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    return torch.stack([gathered_sum(x, offsets, columns, values) for x in x_NKW])


def compressed(matrix: Tensor, block: int | None = None) -> tuple[Tensor, ...]:
    """Offsets, columns (int32) and values of a matrix in compressed rows.

    Args:
        matrix: ``(rows, columns)``.
        block: size of square blocks that divides both; None for single entries.

    Example:
        >>> [part.tolist() for part in compressed(torch.eye(2))]
        [[0, 1, 2], [0, 1], [1.0, 1.0]]
    """
    silence_sparse()
    if block is None:
        sparse = matrix.to_sparse_csr()
    else:
        sparse = matrix.to_sparse_bsr((block, block))
    offsets, columns = sparse.crow_indices(), sparse.col_indices()
    values = sparse.values().clone()  # compilers refuse views of sparse tensors
    return offsets.to(torch.int32), columns.to(torch.int32), values


def in_aten(x_KM: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """``W @ x`` by torch's own operators, for single entries or for blocks.

    Example:
        >>> x = torch.arange(4.0)[:, None]
        >>> in_aten(x, *compressed(torch.eye(4).flip(0), 2)).flatten().tolist()
        [3.0, 2.0, 1.0, 0.0]
    """
    if values.ndim == 1:
        return gathered_sum(x_KM.contiguous(), offsets, columns, values)
    count, rows, width = values.shape
    lines, places = offsets.numel() - 1, x_KM.shape[1]
    parts = values @ x_KM.reshape(-1, width, places)[columns.long()]
    line = torch.arange(lines, device=offsets.device)
    line = line.repeat_interleave(offsets.diff(), output_size=count)
    y = parts.new_zeros(lines, rows, places).index_add(0, line, parts)
    return y.reshape(lines * rows, places)


def _csr(x_KM: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    silence_sparse()
    shape = (offsets.numel() - 1, x_KM.shape[0])
    weight = torch.sparse_csr_tensor(
        offsets, columns, values, shape, check_invariants=False
    )
    return weight @ x_KM.contiguous()


def _bsr(x_KM: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    silence_sparse()
    shape = ((offsets.numel() - 1) * values.shape[1], x_KM.shape[0])
    weight = torch.sparse_bsr_tensor(
        offsets, columns, values, shape, check_invariants=False
    )
    return weight @ x_KM.contiguous()


def _packed(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    outputs: int,
    vectors: int,
    last: bool,
    activation: str,
) -> Tensor:
    y = _packed_shape(x, packed, bias, outputs, vectors, last, activation)
    x_BKT, y_BNT = x, y
    if last:
        x_BKT = x.reshape(-1, x.shape[-1]).T[None]
        y_BNT = y.view(-1, outputs).T[None]
    product(x_BKT, Packed(*packed), bias, y_BNT, vectors, activation)
    return y


def _packed_shape(
    x: Tensor,
    packed: Sequence[Tensor],
    bias: Tensor | None,
    outputs: int,
    vectors: int,
    last: bool,
    activation: str,
) -> Tensor:
    del packed, bias, vectors, activation  # they have no part in it
    shape = (*x.shape[:-1], outputs) if last else (x.shape[0], outputs, x.shape[2])
    return x.new_empty(shape)


def _convolved(
    x: Tensor,
    packed: Sequence[Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    window: Sequence[int],
    outputs: int,
    vectors: int,
) -> Tensor:
    y = _convolved_shape(x, packed, scale, shift, activation, window, outputs, vectors)
    convolve(x, Packed(*packed), window, After(scale, shift, activation), y, vectors)
    return y


def _convolved_shape(
    x: Tensor,
    packed: Sequence[Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    window: Sequence[int],
    outputs: int,
    vectors: int,
) -> Tensor:
    del packed, scale, shift, activation, vectors  # they have no part in it
    return x.new_empty(x.shape[0], outputs, *size_of(x, window))


def _tiles_shape(x: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], offsets.shape[0] - 1, x.shape[2])


def _csr_shape(x: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    return x.new_empty(offsets.shape[0] - 1, x.shape[1])


def _bsr_shape(x: Tensor, offsets: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    return x.new_empty((offsets.shape[0] - 1) * values.shape[1], x.shape[1])


_Key = tuple[int | None, ...]
_prepared: MutableMapping[Tensor, tuple[_Key, Any]] = WeakTensorKeyDictionary()


def _int8_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    key = tuple(None if t is None else t._version for t in (weight, scale, bias))
    known, packed = _prepared.get(weight, (None, None))
    if known != key:  # the first call, or values were written into the same memory
        packed = int8_packed(weight, scale, bias)
        _prepared[weight] = key, packed
    y = x.new_empty(*x.shape[:-1], len(weight))
    if y.numel():
        y.view(-1, len(weight)).copy_(int8_linear(x.reshape(-1, x.shape[-1]), packed))
    return y


def _int8_shape(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_WEIGHT = "Tensor offsets, Tensor columns, Tensor values"
_PACKED = (
    "Tensor[] packed, Tensor? bias, int outputs, int vectors, bool last, str activation"
)
_CONVOLVED = (
    "Tensor[] packed, Tensor? scale, Tensor? shift, str activation, int[] window, "
    "int outputs, int vectors"
)
_INT8 = "Tensor weight, Tensor scale, Tensor? bias"
_LIBRARY: Any = torch.library.Library("sparsefx", "FRAGMENT")
for _name, _weight, _real, _shape in (
    ("tiles_mm", _WEIGHT, _tiles, _tiles_shape),
    ("csr_mm", _WEIGHT, _csr, _csr_shape),
    ("bsr_mm", _WEIGHT, _bsr, _bsr_shape),
    ("packed_mm", _PACKED, _packed, _packed_shape),
    ("packed_conv", _CONVOLVED, _convolved, _convolved_shape),
    ("int8_linear", _INT8, _int8_linear, _int8_shape),
):
    _LIBRARY.define(f"{_name}(Tensor x, {_weight}) -> Tensor")
    _LIBRARY.impl(_name, _real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sparsefx::{_name}", _shape, lib=_LIBRARY)
