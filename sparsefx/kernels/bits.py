"""Bool masks, eight to a byte: what is remembered of a mask between steps."""

from __future__ import annotations

import torch
from torch import Tensor


def empty_bits(count: int, device: torch.device | None = None) -> Tensor:
    """Bits of `count` False entries; whole words of 32, as kernels write them."""
    return torch.zeros(4 * -(-count // 32), dtype=torch.uint8, device=device)


def pack(mask: Tensor) -> Tensor:
    """The mask's bits: entry ``8 i + j`` is bit ``j`` of byte ``i``.

    Example:
        >>> pack(torch.tensor([True, False, True])).tolist()
        [5, 0, 0, 0]
    """
    bits = empty_bits(mask.numel(), mask.device)
    places = bits.new_zeros(8 * len(bits))
    places[: mask.numel()] = mask.reshape(-1)
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return torch.sum(places.view(-1, 8) * powers, 1, dtype=torch.uint8, out=bits)


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """The bool mask of that shape.

    Example:
        >>> unpack(pack(torch.tensor([True, False, True])), torch.Size([3])).tolist()
        [True, False, True]
    """
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    places = bits[:, None].bitwise_right_shift(shifts).bitwise_and_(1)
    return places.view(-1)[: shape.numel()].view(shape).bool()
