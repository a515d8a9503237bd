"""Sparse weights times dense activations on a CPU, any number of tokens.

`pack` lays a weight out, `product` multiplies by it: by `products.cpp` where there is a
compiler, else in plain torch (`in_torch`). What is packed are tensors: they are saved,
moved and exported like any other.

In int8, ``w ~ a_n p`` with whole p of at most 63, and ``x ~ low_t + b_t q`` with whole
q from 0 to 255 that are found for each token at each call, so that

    y_nt = a_n (b_t sum p q + low_t sum p) + bias_n,

where the first sum is of whole numbers, and exact.

Shapes: B batch, K features, N outputs, T tokens, G outputs that share their columns,
R rows of such outputs, S segments (a row's entries in a block), E entries.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparsefx.kernels.activation import ACTIVATIONS, activation_number
from sparsefx.kernels.compile_cpu import library

CHUNK = 512  # outputs whose sums stay in the second cache
MOST = 63  # of a weight in int8: products of two fit 16 bits with any activations
_LEVELS, _TINY = 255, 1e-30  # of activations in int8, as in products.cpp
_Long, _Pointer = ctypes.c_int64, ctypes.c_void_p
_SIZES = _Long * 14  # `Sizes` of products.cpp


@dataclass(frozen=True, slots=True)
class Form:
    """How a weight is laid out.

    Attributes:
        block: features of a block, 1 to 32767, pieces of four of them in int8; fewer
            keep activations in a nearer cache, more make rows longer.
        vectors: vectors of eight tokens at a time, 1 to 13 (at most 3 are taken where
            outputs share their columns).
        together: outputs that share their columns, 1 or 4.
        int8: round weights, and at each call activations, to 8 bits; four neighbouring
            features have one index. Then ``together`` is 1.
    """

    block: int
    vectors: int
    together: int = 1
    int8: bool = False


class Packed(NamedTuple):
    """A weight as `products.cpp` reads it.

    Attributes:
        blocks: ``(chunks * blocks, 7)``, int64, for each chunk of outputs and block of
            features: first output, outputs, first feature, first group, end of groups,
            first segment, first entry.
        groups: ``(groups, 2)``, int32: segments of as many entries that follow one
            another: entries of each, segments.
        rows: ``(S,)``, int32: the row of each segment.
        columns: ``(E,)``, int16: features, counted from the block's first; in int8
            pieces of four features.
        values: ``(E, G)``, kept weights; in int8 ``(E, 4)``, the whole p.
        scales: ``(N, 2)``, only in int8: a, and a times the sum of p.
    """

    blocks: Tensor
    groups: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    scales: Tensor | None = None


def pack(weight: Tensor, form: Form) -> Packed:
    """Lays out the entries of ``weight`` that are not zero.

    Args:
        weight: ``(N, K)``, float32; N is a multiple of ``form.together``.
        form: how.

    Example:
        >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
        >>> packed = pack(weight, Form(128, 8))
        >>> packed.rows.tolist(), packed.columns.tolist(), packed.groups.tolist()
        ([1, 0, 2], [1, 0, 1], [[0, 1], [1, 1], [2, 1]])
    """
    if form.int8:
        levels_NK, scales = rounded(weight.detach())
        packed = _laid_out(levels_NK.view(torch.int32), form)
        return packed._replace(values=packed.values.view(torch.int8), scales=scales)
    return _laid_out(weight.detach(), form)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers, int8, padded to pieces of four features, and ``Packed.scales``.

    Example:
        >>> levels, scales = rounded(torch.tensor([[6.3, 0.0, -3.1]]))
        >>> levels.tolist(), scales.round(decimals=4).tolist()
        ([[63, 0, -31, 0]], [[0.10000000149011612, 3.200000047683716]])
    """
    scale_N1 = weight.abs().amax(1, keepdim=True) / MOST
    levels_NK = (weight / scale_N1.clamp(min=_TINY)).round()
    scales = torch.cat([scale_N1, scale_N1 * levels_NK.sum(1, keepdim=True)], 1)
    levels_NK = functional.pad(levels_NK, (0, -weight.shape[1] % 4))
    return levels_NK.to(torch.int8), scales


def _laid_out(weight: Tensor, form: Form) -> Packed:
    outputs, features = weight.shape
    rows, blocks = outputs // form.together, max(-(-features // form.block), 1)
    weight_RGK = weight.reshape(rows, form.together, features)
    row, column = (weight_RGK != 0).any(1).nonzero(as_tuple=True)
    place = row * blocks + column // form.block
    counts_RB = torch.bincount(place, minlength=rows * blocks)
    # segments by chunk, block, count; empty ones only where the sums begin
    chunk = CHUNK // form.together
    at_RB = torch.arange(rows * blocks)
    block_RB = at_RB % blocks
    number_RB = at_RB // blocks // chunk * blocks + block_RB
    keys, order = (number_RB * (features + 1) + counts_RB).sort(stable=True)
    used = (counts_RB[order] > 0) | (block_RB[order] == 0)
    keys, order = keys[used], order[used]
    rank_RB = torch.zeros_like(at_RB)
    rank_RB[order] = torch.arange(len(order))
    entries = rank_RB[place].argsort(stable=True)
    kinds, lengths = keys.unique_consecutive(return_counts=True)
    counts = kinds % (features + 1)
    number = torch.arange(-(-rows // chunk) * blocks + 1)
    groups = torch.searchsorted(kinds // (features + 1), number)
    first = number[:-1] // blocks * chunk
    last = (first + chunk).clamp(max=rows)
    table = [
        first * form.together,
        (last - first) * form.together,
        number[:-1] % blocks * form.block,
        groups[:-1],
        groups[1:],
        functional.pad(lengths.cumsum(0), (1, 0))[groups[:-1]],
        functional.pad((lengths * counts).cumsum(0), (1, 0))[groups[:-1]],
    ]
    return Packed(
        torch.stack(table, 1),
        torch.stack([counts, lengths], 1).to(torch.int32),
        (order // blocks).to(torch.int32),
        (column % form.block)[entries].to(torch.int16),
        weight_RGK[row, :, column][entries],
    )


def in_torch(x_KT: Tensor, packed: Packed, outputs: int) -> Tensor:
    """``W x`` in plain torch: an embedding bag for each segment, and their sums.

    Example:
        >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
        >>> in_torch(torch.tensor([[1.0], [5.0]]), pack(weight, Form(1, 1)), 3)
        tensor([[10.],
                [ 0.],
                [ 8.]])
    """
    if packed.scales is not None:
        return _rounded_in_torch(x_KT, packed, outputs)
    return _bags(x_KT, packed, packed.values, outputs)


def _rounded_in_torch(x_KT: Tensor, packed: Packed, outputs: int) -> Tensor:
    assert packed.scales is not None
    low_T, high_T = x_KT.amin(0), x_KT.amax(0)
    scale_T = (high_T - low_T) / _LEVELS
    steps_T = torch.where(scale_T > _TINY, 1 / scale_T, 0)
    levels_KT = ((x_KT - low_T) * steps_T + 0.5).floor()
    levels_KT = functional.pad(levels_KT, (0, 0, 0, -x_KT.shape[0] % 4))
    sums_NT = sum(
        _bags(
            levels_KT[i::4].contiguous(), packed, packed.values[:, i : i + 1], outputs
        )
        for i in range(4)
    )
    known_T = torch.where(x_KT.isfinite().all(0), scale_T, torch.nan)
    return packed.scales[:, :1] * known_T * sums_NT + packed.scales[:, 1:] * low_T


def _bags(x_KT: Tensor, packed: Packed, values: Tensor, outputs: int) -> Tensor:
    segments, together = packed.rows.numel(), values.shape[1]
    counts_S = _repeated(packed.groups[:, 0], packed.groups[:, 1], segments)
    ends = functional.pad(packed.blocks[1:, 5], (0, 1), value=segments)
    first_S = _repeated(packed.blocks[:, 2], ends - packed.blocks[:, 5], segments)
    first_E = _repeated(first_S, counts_S, packed.columns.numel())
    columns_E = packed.columns.long() + first_E
    offsets = functional.pad(counts_S.long().cumsum(0), (1, 0))
    y_RGT = x_KT.new_zeros(outputs // together, together, x_KT.shape[1])
    for g in range(together):
        part_ST = functional.embedding_bag(
            columns_E,
            x_KT,
            offsets,
            mode="sum",
            per_sample_weights=values[:, g].to(x_KT.dtype).contiguous(),
            include_last_offset=True,
        )
        y_RGT[:, g] = y_RGT[:, g].index_add(0, packed.rows, part_ST)
    return y_RGT.reshape(outputs, x_KT.shape[1])


def _repeated(values: Tensor, times: Tensor, size: int) -> Tensor:
    return values.repeat_interleave(times, output_size=size)


def product(
    x_BKT: Tensor,
    packed: Packed,
    bias: Tensor | None,
    y_BNT: Tensor,
    vectors: int,
    activation: str = "none",
) -> None:
    """Writes ``f(W x + bias)`` into ``y``; both may have any strides.

    Args:
        x_BKT: activations.
        packed: of the weight.
        bias: ``(N,)`` or None.
        y_BNT: what is written.
        vectors: as of the `Form`.
        activation: f, one of `ACTIVATIONS`.

    Example:
        >>> weight, y = torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.empty(1, 2, 1)
        >>> x = torch.tensor([[[1.0], [5.0]]])
        >>> product(x, pack(weight, Form(128, 8)), torch.ones(2), y, 8)
        >>> y.flatten().tolist()
        [11.0, 9.0]
    """
    numbers = packed.values if packed.scales is None else packed.scales
    if not (usable(x_BKT) and usable(numbers)):
        for x_KT, y_NT in zip(x_BKT, y_BNT, strict=True):
            y_NT.copy_(in_torch(x_KT.contiguous(), packed, len(y_NT)))
        if bias is not None:
            y_BNT += bias[:, None]
        if activation != "none":
            y_BNT.copy_(ACTIVATIONS[activation](y_BNT))
        return
    sizes = _SIZES(
        *x_BKT.shape[:2],
        *y_BNT.shape[1:],
        *x_BKT.stride(),
        *y_BNT.stride(),
        packed.values.shape[1] if packed.scales is None else 1,
        len(packed.blocks),
        vectors,
        activation_number(activation),
    )
    _compiled()(
        torch.get_num_threads(),
        pool(),
        sizes,
        x_BKT.data_ptr(),
        y_BNT.data_ptr(),
        *(None if part is None else part.data_ptr() for part in (bias, *packed)),
    )


def usable(weight: Tensor) -> bool:
    """Whether the kernel takes a weight here; what it does not runs in plain torch."""
    return weight.dtype is torch.float32 and weight.is_cpu and _compiled() is not None


@functools.cache
def _compiled() -> Any:
    """The kernel, or None where no compiler can make it."""
    found = library()
    if found is None:
        return None
    multiply = found.sparse_product
    multiply.argtypes, multiply.restype = (_Long, *[_Pointer] * 11), None
    return multiply


@functools.cache
def pool() -> int | None:
    """torch's own threads: two pools on the same cores would wait for each other."""
    run = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if run is None else ctypes.cast(run, _Pointer).value
