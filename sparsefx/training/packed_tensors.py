"""Sparse tensors in few bytes: where the entries are, and what they are.

A tensor with many zeros is stored as two: its non-zero entries in order, and either a
bit for every place (``bits``) or, where entries are rarer than one in sixteen or so,
the rows' lengths and each entry's column (``csr``). The smaller one is taken, and the
dense tensor where neither is smaller. What comes back has the same bits: a negative
zero counts as an entry, or, where multiplying by a mask left many, has a bit in a
second set (``signs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BITS = "sparsefx.bits/"
SIGNS = "sparsefx.signs/"
LENGTHS = "sparsefx.lengths/"
COLUMNS = "sparsefx.columns/"
VALUES = "sparsefx.values/"
_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLACES = (128, 64, 32, 16, 8, 4, 2, 1)
_SHORT = 2**15  # columns below it are stored as int16


def pack(mask: Tensor) -> Tensor:
    """Eight entries of a bool tensor to a byte, the first in the highest bit.

    Example:
        >>> pack(torch.tensor([True, False, True])).tolist()
        [160]
    """
    flat = mask.flatten().to(torch.uint8)
    padded = torch.cat([flat, flat.new_zeros(-flat.numel() % 8)]).view(-1, 8)
    places = torch.tensor(_PLACES, dtype=torch.uint8)
    return (padded * places).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The bool tensor of ``shape`` that `pack` made ``bits`` of.

    Example:
        >>> unpack(torch.tensor([160], dtype=torch.uint8), (3,)).tolist()
        [True, False, True]
    """
    places = torch.tensor(_PLACES, dtype=torch.uint8)
    flat = (bits[:, None] & places).bool().flatten()
    return flat[: torch.Size(shape).numel()].view(shape)


def compress(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the smallest of the forms, and the shapes of those changed.

    Args:
        tensors: contiguous tensors on the CPU by key.

    Returns:
        Tensors to store, and shapes by key for `expand`.

    Example:
        >>> stored, shapes = compress({"w": torch.eye(32)})
        >>> sorted(stored), shapes
        (['sparsefx.bits/w', 'sparsefx.values/w'], {'w': [32, 32]})
        >>> torch.equal(expand(stored, shapes)["w"], torch.eye(32))
        True
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, Any] = {}
    for key, value in tensors.items():
        parts = _smallest(key, value)
        stored |= parts
        if key not in parts:
            shapes[key] = list(value.shape)
    return stored, shapes


def expand(
    stored: Mapping[str, Tensor], shapes: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors that `compress` was given, bit for bit.

    Args:
        stored: what it returned, and other tensors, which stay as they are.
        shapes: likewise.

    Example:
        >>> weight = torch.tensor([[0.0, -0.0, 3.0]])
        >>> torch.signbit(expand(*compress({"w": weight}))["w"]).tolist()
        [[False, True, False]]
    """
    heads = (BITS, SIGNS, LENGTHS, COLUMNS, VALUES)
    found = {k: v for k, v in stored.items() if not k.startswith(heads)}
    for key, shape in shapes.items():
        values = stored[VALUES + key]
        dense = values.new_zeros(shape)
        if BITS + key in stored:
            kept = unpack(stored[BITS + key], tuple(shape))
        else:
            kept = _places(stored[LENGTHS + key], stored[COLUMNS + key], dense)
        dense[kept] = values
        if SIGNS + key in stored:
            dense[unpack(stored[SIGNS + key], tuple(shape))] = -0.0
        found[key] = dense
    return found


def _smallest(key: str, value: Tensor) -> dict[str, Tensor]:
    width = _BYTES.get(value.element_size())
    if not value.ndim or width is None or value.is_complex():
        return {key: value}
    kept = value.view(width) != 0
    values = value[kept]
    forms = [{key: value}, {BITS + key: pack(kept), VALUES + key: values}]
    zero = value == 0
    if bool((kept & zero).any()):
        parts = {BITS + key: pack(~zero), VALUES + key: value[~zero]}
        forms.append({**parts, SIGNS + key: pack(kept & zero)})
    if value.ndim > 1 and value.numel():
        rows = kept.flatten(1)
        columns = rows.nonzero()[:, 1]
        short = rows.shape[1] <= _SHORT
        forms.append(
            {
                LENGTHS + key: rows.sum(1, dtype=torch.int32),
                COLUMNS + key: columns.to(torch.int16 if short else torch.int32),
                VALUES + key: values,
            }
        )
    return min(forms, key=lambda parts: sum(part.nbytes for part in parts.values()))


def _places(lengths: Tensor, columns: Tensor, dense: Tensor) -> Tensor:
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    kept = torch.zeros(dense.shape, dtype=torch.bool)
    kept.flatten(1)[rows, columns.long()] = True
    return kept
