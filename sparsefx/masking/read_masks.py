"""What the hard masks of a model keep, read from its weights and mask parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.kernels.bits import empty_bits, pack, unpack
from sparsefx.masking.sparse_state import SparseState


@torch.no_grad()
def hard_masks(state: SparseState) -> list[Tensor]:
    """Bool masks of all sites, recomputed from weights and scalars."""
    if state.kept is not None:
        return state.kept.masks(len(state.names))
    rows = zip(hard_bits(state), state.groups(), state.weights(), strict=True)
    return [
        unpack(bits, weight.shape)
        if groups is None
        else groups.expand(weight, unpack(bits, torch.Size((groups.count,))))
        for bits, groups, weight in rows
    ]


@torch.no_grad()
def hard_bits(state: SparseState) -> list[Tensor]:
    """What the masks keep, as `sparsefx.kernels.bits`: weights, or groups.

    Of masks that are stored, always the weights.
    """
    if state.kept is not None:
        return [pack(mask) for mask in state.kept.masks(len(state.names))]
    flats = state.values()
    found = [empty_bits(flat.numel(), flat.device) for flat in flats]
    rules = (state.threshold.tolist(), state.last.tolist())
    kernels_for(flats).hard_masks(flats, *rules, into=found)
    return found


@torch.no_grad()
def baked_bits(weights: Sequence[Tensor], threshold: Tensor) -> list[Tensor]:
    """Which weights masks that are baked in keep: those that are not zero.

    Args:
        weights: with the masks baked in.
        threshold: of the sites; below 0 everything is kept.
    """
    everything = (threshold < 0).tolist()
    return [
        pack(torch.ones_like(w, dtype=torch.bool) if whole else w != 0)
        for w, whole in zip(weights, everything, strict=True)
    ]


@torch.no_grad()
def entry_masks(state: SparseState, masks: Sequence[Tensor]) -> list[Tensor]:
    """Which entries (weights, or groups) masks of weights keep, flat."""
    return [
        mask.reshape(-1) if groups is None else groups.values(mask.float()) > 0
        for groups, mask in zip(state.groups(), masks, strict=True)
    ]


def counts(state: SparseState, kept: Sequence[Tensor]) -> tuple[int, ...]:
    """How many entries are kept, by the bits of masks of weights."""
    pairs = zip(kept, state.weights(), strict=True)
    masks = [unpack(bits, weight.shape) for bits, weight in pairs]
    return tuple(int(mask.count_nonzero()) for mask in entry_masks(state, masks))
