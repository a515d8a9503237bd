"""The callback for Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsefx.integrations import missing
from sparsefx.integrations.mask_steps import MaskSteps

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", error) from error


class SparseCallback(TrainerCallback):
    """Moves the masks of the trainer's model after each step of its optimizer.

    Checkpoints of the trainer hold the masks: with ``resume_from_checkpoint`` training
    goes on as if it had never stopped, and the best model that it loads at the end is
    as sparse as it was.

    Attributes:
        steps: the last step's report is in ``steps.reports``.

    Example:
        >>> from transformers import Trainer
        >>> make = lambda sparse, data: Trainer(
        ...     sparse, train_dataset=data, callbacks=[SparseCallback()]
        ... )
    """

    def __init__(self) -> None:  # noqa: D107
        self.steps = MaskSteps()

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        model: nn.Module,
        optimizer: Any = None,
        **rest: Any,
    ) -> None:
        """Follows the optimizer; refuses a model without masks."""
        self.steps.attach(model, [] if optimizer is None else [optimizer])

    def on_train_end(self, *_: Any, **rest: Any) -> None:
        """Follows it no longer."""
        self.steps.detach()
