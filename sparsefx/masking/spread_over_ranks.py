"""A model's weights become parts on ranks: its masks become parts too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.kernels.bits import pack, unpack
from sparsefx.kernels.shards import Box
from sparsefx.masking.distribution import is_dtensor, local_part, whole_tensor
from sparsefx.masking.shared_weights import SharedWeights, alike

if TYPE_CHECKING:
    from sparsefx.masking.sparse_state import SparseState


@torch.no_grad()
def spread(
    state: SparseState, index: int, parameter: Tensor, *, gathered: bool
) -> bool:
    """Takes a parameter that is put in the place of a weight, if ranks share it.

    Args:
        state: of the weights.
        index: which weight.
        parameter: what takes its place.
        gathered: FSDP2 puts it there, and the whole one while layers run.

    Returns:
        Whether it does; False leaves it to the module.

    Raises:
        MaskError: these masks cannot be spread over ranks.
    """
    known = None if state.shared is None else state.shared.parts.get(index)
    if known is None and not is_dtensor(parameter):
        return False
    _check(state, index)
    shape = tuple(state.weights()[index].shape)
    before = Box(shape, shape, (0,) * len(shape)) if known is None else known.box
    state.shared = state.shared or SharedWeights(state)
    box = state.shared.takes(index, parameter, gathered=gathered)
    if box is None:
        return True
    bits = getattr(state, f"bits_{index}")
    mask = unpack(bits, torch.Size(before.shape))
    state.hold(f"bits_{index}", pack(_part(mask, before, box)))
    if state.still is not None:
        state.still[index] = _part(state.still[index], before, box)
    return True


@torch.no_grad()
def stored(state: SparseState, tensors: dict[str, Any], prefix: str) -> None:
    """Puts masks that ranks share into a state dict as whole ones, spread; bool."""
    if state.shared is not None:
        masks = state.shared.whole(state.hard())
        for index in state.shared.parts:
            tensors[f"{prefix}bits_{index}"] = masks[index]


@torch.no_grad()
def unstored(state: SparseState, tensors: dict[str, Any], prefix: str) -> None:
    """Makes masks of a state dict those of this rank's parts, in place.

    They may be bits of the whole, bool masks, or spread over ranks; and no rank need
    share anything where they go.
    """
    parts = {} if state.shared is None else state.shared.parts
    for index, weight in enumerate(state.weights()):
        key, part = f"{prefix}bits_{index}", parts.get(index)
        mask = tensors.get(key)
        if mask is None or (part is None and mask.dtype == torch.uint8):
            continue
        whole = tuple(weight.shape) if part is None else part.box.whole
        if mask.dtype == torch.uint8:
            mask = unpack(mask.to(weight.device), torch.Size(whole))
        if part is not None and is_dtensor(mask) and alike(mask, part.parameter):
            mask = local_part(mask)
        else:
            mask = whole_tensor(mask)
            if part is not None:
                every = Box(whole, whole, (0,) * len(whole))
                mask = _part(mask.reshape(whole), every, part.box)
        tensors[key] = pack(mask.to(weight.device))


def _part(whole: Tensor, before: Box, now: Box) -> Tensor:
    """The part of a box in what was the part of a wider one; a copy."""
    rows = zip(before.offset, now.offset, now.shape, strict=True)
    for dim, (old, new, length) in enumerate(rows):
        whole = whole.narrow(dim, new - old if length else 0, length)
    return whole.clone()


def _check(state: SparseState, index: int) -> None:
    granularity, name = state.rules[index][0], state.names[index]
    what = {
        "a learner that stores masks": state.kept is not None,
        "soft_when_frozen": state.lasting is not None,
        "unit_density": state.units is not None,
        "masks='nonzero'": state.candidates is not None,
        f"granularity {granularity!r}": granularity != "unstructured",
    }
    odd = [text for text, found in what.items() if found]
    if odd:
        raise MaskError(
            f"{name!r} cannot be spread over ranks (fully_shard, parallelize_module) "
            f"with {odd[0]}; what can: unstructured masks of the learner soft_topk. "
            "DistributedDataParallel takes all"
        )
