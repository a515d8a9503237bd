"""A look into torch's own attention, which modes of torch functions get as one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.nn.functional as F


@functools.cache
def python_body(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The same attention, whose products a mode is told of; None of other functions.

    Called under a mode, `torch.nn.functional.multi_head_attention_forward` asks first
    whether anybody overrides it, and hands itself over; this one does not ask.

    Example:
        >>> python_body(F.multi_head_attention_forward).__name__
        'multi_head_attention_forward'
    """
    if func is not F.multi_head_attention_forward:
        return None
    original: Any = func
    names = {**original.__globals__, "has_torch_function": lambda _: False}
    code = original.__code__
    found = FunctionType(code, names, code.co_name, original.__defaults__)
    found.__kwdefaults__ = original.__kwdefaults__
    return found
