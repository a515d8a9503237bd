"""Steps of an optimizer that a gradient scaler skips are none."""

from __future__ import annotations

import torch

from sparsefx.errors import MaskError
from sparsefx.torch_internals import scaler_skipped


def skipped(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer | None
) -> bool:
    """Whether a gradient scaler has skipped an optimizer's last step.

    Raises:
        MaskError: it is no scaler, or has not stepped the optimizer since its update.
    """
    if not isinstance(scaler, torch.amp.GradScaler) or optimizer is None:
        raise MaskError(
            f"scaler is a {type(scaler).__name__} with optimizer "
            f"{type(optimizer).__name__}; give a torch.amp.GradScaler and the "
            "optimizer that it steps"
        )
    found = scaler_skipped(scaler, optimizer) if scaler.is_enabled() else False
    if found is None:
        raise MaskError(
            f"the scaler has not stepped this {type(optimizer).__name__} since its "
            "last update; call sparsefx.step between scaler.step(optimizer) and "
            "scaler.update()"
        )
    return found
