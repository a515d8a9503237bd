"""Masks of weights as masks of the entries (weights, or groups) that may be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.kernels.bits import pack, unpack
from sparsefx.masking.sparse_state import SparseState


@torch.no_grad()
def entry_masks(state: SparseState, masks: Sequence[Tensor]) -> list[Tensor]:
    """Which entries masks of weights keep, flat."""
    return state.among(
        [
            mask.reshape(-1) if groups is None else groups.values(mask.float()) > 0
            for groups, mask in zip(state.groups(), masks, strict=True)
        ]
    )


def entry_counts(state: SparseState, masks: Sequence[Tensor]) -> tuple[int, ...]:
    """How many entries masks of weights keep."""
    found = entry_masks(state, masks)
    return state.summed([int(mask.count_nonzero()) for mask in found])


@torch.no_grad()
def weight_masks(state: SparseState, entries: Sequence[Tensor]) -> list[Tensor]:
    """The weights that are kept where these entries are: what `entry_masks` undoes."""
    groups, some = state.groups(), state.candidates
    whole = entries if some is None else some.whole(entries, groups)
    rows = zip(whole, groups, state.present(), strict=True)
    found = [
        mask.view(weight.shape) if cut is None else cut.expand(weight, mask)
        for mask, cut, weight in rows
    ]
    return found if some is None else [m & some.mask(i) for i, m in enumerate(found)]


@torch.no_grad()
def entry_bits(state: SparseState) -> list[Tensor]:
    """Bits of the entries that are kept now, in tensors of their own."""
    if _weights_are_entries(state):
        return [bits.clone() for bits in state.bits()]
    return [pack(mask) for mask in entry_masks(state, state.hard())]


@torch.no_grad()
def weight_bits(
    state: SparseState, bits: Sequence[Tensor], counts: Sequence[int]
) -> Sequence[Tensor]:
    """The weights that are kept where these entries are, both as bits.

    Args:
        state: of the weights.
        bits: one tensor a site.
        counts: how many entries each site has.
    """
    if _weights_are_entries(state):
        return bits
    pairs = zip(bits, counts, strict=True)
    entries = [unpack(kept, torch.Size((count,))) for kept, count in pairs]
    return [pack(mask) for mask in weight_masks(state, entries)]


def _weights_are_entries(state: SparseState) -> bool:
    return state.candidates is None and not any(state.groups())
