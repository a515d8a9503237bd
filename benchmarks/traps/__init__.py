"""Hand-written models, each with one thing that is hard to record or to mask."""

from collections.abc import Callable
from typing import Any

from torch import nn

from traps import control, effects, values, weights

MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    **control.MODELS,
    **effects.MODELS,
    **values.MODELS,
    **weights.MODELS,
}
