"""Where the weights of a model lie, as a table that kernels read.

The pieces in which kernels take them are numbered through all tensors: nothing is
concatenated, and one launch does every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.torch_internals import is_plain

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALIGNMENT = 16  # bytes that a thread loads at once
_MOST_ENTRIES = 2**31 - 2**16  # of a group: positions and counts are 32-bit integers


@dataclass(frozen=True, slots=True)
class Layout:
    """How a dense tensor is stored.

    Attributes:
        inner: size of the dimension stored last; 1 where the order is row-major.
        outer: entries of one index of the first dimension; 1 where row-major.
    """

    inner: int
    outer: int


def layout(tensor: Tensor) -> Layout | None:
    """The layout of a row-major or channels_last tensor; None for any other.

    Example:
        >>> layout(torch.ones(2, 3))
        Layout(inner=1, outer=1)
        >>> w = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
        >>> layout(w)
        Layout(inner=3, outer=48)
        >>> layout(torch.ones(2, 3).T) is None
        True
    """
    if tensor.is_contiguous():
        return Layout(1, 1)
    if tensor.dim() >= 3 and tensor.movedim(1, -1).is_contiguous():
        return Layout(tensor.shape[1], math.prod(tensor.shape[1:]))
    return None


def readable(tensors: Sequence[Tensor]) -> bool:
    """Whether kernels can read these tensors together through a table.

    They must be plain strided tensors of one device and one dtype (float32, bfloat16
    or float16), row-major or channels_last, 16-byte aligned, with fewer than 2**31
    entries together.

    Example:
        >>> readable([torch.ones(4)]), readable([torch.ones(4)[1:]])
        (True, False)
    """
    return (
        bool(tensors)
        and len({(t.device, t.dtype) for t in tensors}) == 1
        and sum(t.numel() for t in tensors) < _MOST_ENTRIES
        and tensors[0].dtype in DTYPES
        and all(
            is_plain(t) and t.data_ptr() % _ALIGNMENT == 0 and layout(t) is not None
            for t in tensors
        )
    )


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of several tensors.

    Attributes:
        owner: the tensor each piece belongs to, int32.
        first: the first piece of each tensor.
    """

    owner: Tensor
    first: tuple[int, ...]


def pieces(numels: Sequence[int], size: int) -> Pieces:
    """Cuts tensors into pieces of at most `size` entries, in order.

    Example:
        >>> cut = pieces([5, 2], size=4)
        >>> cut.owner.tolist(), cut.first
        ([0, 0, 1], (0, 2))
    """
    counts = [-(-n // size) for n in numels]
    owner = torch.repeat_interleave(
        torch.arange(len(counts), dtype=torch.int32), torch.tensor(counts)
    )
    return Pieces(owner, tuple(sum(counts[:i]) for i in range(len(counts))))
