"""The callback for Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsefx.integrations import missing
from sparsefx.integrations.mask_steps import MaskSteps

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing("lightning", error) from error


class SparseCallback(Callback):
    """Moves the masks of the sparse models in a module after each optimizer step.

    Lightning's checkpoints hold the masks: with ``ckpt_path`` training goes on as if it
    had never stopped.

    Attributes:
        steps: the last step's report is in ``steps.reports``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> make = lambda: Trainer(max_steps=1000, callbacks=[SparseCallback()])
    """

    def __init__(self) -> None:  # noqa: D107
        self.steps = MaskSteps()

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Follows the optimizers; refuses a module without masks."""
        self.steps.attach(pl_module, trainer.optimizers)

    def on_train_end(self, *_: Any) -> None:
        """Follows them no longer."""
        self.steps.detach()

    def on_exception(self, *_: Any) -> None:
        """Follows them no longer."""
        self.steps.detach()
