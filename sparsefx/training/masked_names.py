"""The names of what is masked, as a tensor: state dicts hold nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.errors import MaskError


def as_tensor(names: Sequence[str]) -> Tensor:
    """Names as bytes.

    Example:
        >>> as_tensor(["a", "b"]).tolist()
        [97, 10, 98]
    """
    return torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)


def check_names(stored: Tensor, ours: Sequence[str]) -> None:
    """Refuses a checkpoint of another selection.

    Raises:
        MaskError: it masks other weights.
    """
    theirs = bytes(stored.tolist()).decode().split("\n")
    if theirs != (list(ours) or [""]):
        odd = sorted(set(theirs) ^ set(ours))[:5] or ["their order"]
        raise MaskError(
            f"the checkpoint masks {len(theirs)} weights, this model {len(ours)}; "
            f"they differ in {', '.join(odd)}; transform the model with the policy "
            "the checkpoint was made with"
        )
