"""The masks' step after each step of the optimizer, whoever's loop it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from sparsefx.errors import MaskError
from sparsefx.masking.state_keys import CHILD
from sparsefx.training.live_model import step
from sparsefx.training.step_report import StepReport


class MaskSteps:
    """Calls `sparsefx.step` whenever an optimizer has taken a step.

    A hook of the optimizer itself does it. So it is once however many batches are
    accumulated, never where a gradient scaler skips the step, while the gradients are
    there, and before anybody can save or average the model.

    Attributes:
        reports: of the last step, by the sparse model's path in the trained one.

    Example:
        >>> from sparsefx import transform
        >>> x, net = torch.ones(1, 4), nn.Linear(4, 2)
        >>> sparse = transform(net, "rigl", budget=0.5, example_inputs=(x,))
        >>> sgd, steps = torch.optim.SGD(sparse.parameters()), MaskSteps()
        >>> steps.attach(sparse, [sgd])
        >>> sgd.step()
        >>> steps.reports[""].step, steps.reports[""].hard_cost
        (1, 4.0)
        >>> steps.detach()
    """

    def __init__(self) -> None:  # noqa: D107
        self.reports: dict[str, StepReport] = {}
        self._hooks: list[Any] = []

    def attach(self, model: nn.Module, optimizers: Iterable[Any]) -> None:
        """Follows the optimizers that train the sparse models in ``model``.

        Args:
            model: what `sparsefx.transform` returned, or a module that holds it.
            optimizers: those of the loop. The one that holds most of a sparse model's
                parameters counts its steps.

        Raises:
            MaskError: no model is sparse, or none of the optimizers trains it.
        """
        known = [_inner(optimizer) for optimizer in optimizers]
        pairs = {path: (part, _trainer(part, known)) for path, part in _sparse(model)}
        if not pairs:
            raise MaskError(
                f"nothing in this {type(model).__name__} is sparse; give the trainer "
                "what sparsefx.transform returned, or a module that holds it"
            )
        self.detach()
        self.reports = {}
        for path, (part, optimizer) in pairs.items():
            self._follow(path, part, optimizer)

    def detach(self) -> None:
        """Follows them no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _follow(
        self, path: str, part: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        def stepped(*_: Any) -> None:
            # fused optimizers skip the step themselves
            skipped = getattr(optimizer, "found_inf", None)
            if skipped is None or not bool(skipped):
                self.reports[path] = step(part, optimizer=optimizer)

        self._hooks.append(optimizer.register_step_post_hook(stepped))


def _sparse(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    if CHILD in module._modules:
        yield path, module
        return
    for name, child in module.named_children():
        yield from _sparse(child, f"{path}.{name}".lstrip("."))


def _trainer(
    part: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """The optimizer that holds most of the parameters."""
    own = {id(parameter) for parameter in part.parameters()}
    held = [
        sum(id(p) in own for group in optimizer.param_groups for p in group["params"])
        for optimizer in optimizers
    ]
    if not any(held):
        raise MaskError(
            f"no optimizer of the trainer holds a parameter of the sparse "
            f"{type(part).__name__}, so that its masks would never move; make the "
            "optimizer from the parameters of the transformed model"
        )
    return optimizers[held.index(max(held))]


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", None)
    found: torch.optim.Optimizer = optimizer if inner is None else _inner(inner)
    return found
