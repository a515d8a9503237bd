"""Sparse models that many tests begin with: transformed once, then copied."""

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

from torch import nn


def made_once(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """``make``, whose answer to the same texts and numbers is a copy of the first.

    A copy is as good as new: tests/training/test_laws.py.
    """
    first: dict[str, nn.Module] = {}

    @functools.wraps(make)
    def copied(*args: Any, **options: Any) -> nn.Module:
        try:
            key = json.dumps((args, options))
        except TypeError:  # a module, a tensor, a function
            return make(*args, **options)
        if key not in first:
            first[key] = make(*args, **options)
        return copy.deepcopy(first[key])

    return copied
