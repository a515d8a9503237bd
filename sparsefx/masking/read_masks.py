"""Masks of weights as masks of entries (weights, or groups), and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.kernels.bits import pack, unpack
from sparsefx.masking.sparse_state import SparseState


@torch.no_grad()
def entry_masks(state: SparseState, masks: Sequence[Tensor]) -> list[Tensor]:
    """Which entries masks of weights keep, flat."""
    return [
        mask.reshape(-1) if groups is None else groups.values(mask.float()) > 0
        for groups, mask in zip(state.groups(), masks, strict=True)
    ]


def entry_counts(state: SparseState, masks: Sequence[Tensor]) -> tuple[int, ...]:
    """How many entries masks of weights keep."""
    return tuple(int(mask.count_nonzero()) for mask in entry_masks(state, masks))


@torch.no_grad()
def entry_bits(state: SparseState) -> list[Tensor]:
    """Bits of the entries that are kept now, in tensors of their own."""
    rows = zip(state.bits(), state.groups(), state.weights(), strict=True)
    return [
        bits.clone()
        if groups is None
        else pack(groups.values(unpack(bits, weight.shape).float()) > 0)
        for bits, groups, weight in rows
    ]


@torch.no_grad()
def weight_bits(state: SparseState, entries: Sequence[Tensor]) -> list[Tensor]:
    """The weights that are kept where these entries are, both as bits."""
    rows = zip(entries, state.groups(), state.weights(), strict=True)
    return [
        bits
        if groups is None
        else pack(groups.expand(weight, unpack(bits, torch.Size((groups.count,)))))
        for bits, groups, weight in rows
    ]
