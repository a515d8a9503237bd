r"""A dense model that a sparse one learns from while it trains.

In training mode the outputs ``o`` carry one more loss, what sets them apart from the
teacher's outputs ``t``:

    total = loss(o, ...) + weight * divergence(o, t)

A model that returns its own ``loss`` returns the total there. Any other gives its
outputs as they are; when ``loss`` is differentiated, their gradients get those of the
divergence, so that the loop stays what it is and ``.grad`` is exact for the total.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.masking.copies import duplicate, mirror
from sparsefx.settings.rules import is_number, refuse
from sparsefx.torch_internals import tree_flatten, tree_unflatten
from sparsefx.tracing.object_trees import box, unbox
from sparsefx.training.divergence import entry, mean_divergence
from sparsefx.training.life import Life


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """Whom a sparse model learns from, and how much; ``teacher=`` of `transform`.

    Attributes:
        model: runs in eval mode, without gradients; it is left as it was.
        weight: of the divergence, above 0, beside a loss of weight 1. Where the loss is
            divided (by accumulated batches, say), so must this be.
        loss: maps the output and the teacher's output to a number; by default the
            divergence of their kind (`sparsefx.training.divergence`), mean over rows,
            of the tokens that an input ``attention_mask`` lets count.
        scaler: the gradient scaler of mixed precision, if the loss is scaled by one.

    Raises:
        MaskError: the model is no module, or is being trained sparse.
        PolicyError: the weight is not a number above 0.

    Example:
        >>> Teacher(nn.Linear(3, 2), weight=0.5).weight
        0.5
    """

    model: nn.Module
    weight: float = 1.0
    loss: Callable[[Any, Any], Tensor] | None = None
    scaler: torch.amp.GradScaler | None = None

    def __post_init__(self) -> None:
        model, weight = self.model, self.weight
        if not isinstance(model, nn.Module):
            raise MaskError(
                f"teacher is a {type(model).__name__}; give a dense torch.nn.Module"
            )
        if any(isinstance(part, Life) for part in model.modules()):
            raise MaskError(
                f"the teacher, a {type(model).__name__}, is being trained sparse "
                "itself; give a dense model, or what sparsefx.finalize returns"
            )
        if not is_number(weight) or not 0 < weight < math.inf:
            refuse("weight of the teacher", weight, "a finite number above 0")


def as_teacher(given: nn.Module | Teacher) -> Teacher:
    """A model as a teacher of weight 1."""
    return given if isinstance(given, Teacher) else Teacher(given)


class Lesson:
    """The hook of a sparse model's root that adds what its outputs are off by.

    Copies of the model share it.
    """

    def __init__(self, teacher: Teacher, student: nn.Module) -> None:  # noqa: D107
        model, own = teacher.model, _places(student)
        same = own & _places(model)
        self._model = (duplicate(model) if same else mirror(model)).eval()
        self._teacher = teacher

    def __deepcopy__(self, memo: dict[int, Any]) -> Lesson:
        return self

    def __call__(
        self,
        student: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> Any:
        """The output, carrying the divergence while the model trains."""
        if not (student.training and torch.is_grad_enabled()):
            return out
        leaves, spec = tree_flatten(box(out))
        places = [i for i, x in enumerate(leaves) if _learns(x)]
        if not places:
            raise MaskError(
                f"no output of this {type(student).__name__} has a gradient, so that "
                "it can learn nothing from its teacher; leave teacher out, or train "
                "its weights"
            )
        with torch.no_grad():
            wanted = self._beside(leaves[places[0]])(*args, **kwargs)
        far = self._far(out, wanted, kwargs)
        own = entry(out, "loss")
        if isinstance(own, Tensor) and own.numel() == 1 and _learns(own):
            leaves = [own + far if x is own else x for x in leaves]
        else:
            scaler = self._teacher.scaler
            far = far if scaler is None else scaler.scale(far)
            apply: Any = _Carry.apply
            carrying = apply(far, *(leaves[i] for i in places))
            for place, value in zip(places, carrying, strict=True):
                leaves[place] = value
        return unbox(tree_unflatten(leaves, spec))

    def _far(self, out: Any, wanted: Any, kwargs: dict[str, Any]) -> Tensor:
        loss, weight = self._teacher.loss, self._teacher.weight
        if loss is not None:
            return weight * loss(out, wanted)
        mask = kwargs.get("attention_mask")
        valid = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        return weight * mean_divergence(out, wanted, valid)

    def _beside(self, output: Tensor) -> nn.Module:
        """The teacher, where the outputs are."""
        first = next(self._model.parameters(), output)
        if first.device != output.device:
            self._model = duplicate(self._model).to(output.device)
        return self._model


class _Carry(torch.autograd.Function):
    """Values as they are, whose backward pass starts that of one more number."""

    @staticmethod
    def forward(ctx: Any, more: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(torch.ones_like(more))
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        return (*ctx.saved_tensors, *slopes)


def _learns(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


def _places(model: nn.Module) -> set[int]:
    """Where the tensors of a model lie."""
    return {t.data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
