"""Regions of a graph that run without gradients or under autocast.

A graph is a straight line of calls, so a ``with`` block becomes a call that enters and
one that leaves. What was in force before is restored, never a constant: a graph that
is run under ``no_grad`` must not switch gradients on again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

_KINDS: Mapping[str, Callable[..., AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "set_grad_enabled": torch.set_grad_enabled,
    "autocast": torch.autocast,
}


class _Open(threading.local):
    def __init__(self) -> None:
        self.regions: list[AbstractContextManager[Any]] = []


_OPEN = _Open()


def enter_region(kind: str, *options: Any) -> int:
    """Enters a region; returns the number that leaves it.

    Args:
        kind: ``"no_grad"``, ``"enable_grad"``, ``"set_grad_enabled"``, ``"autocast"``.
        options: what the context manager of that name takes.

    Example:
        >>> region = enter_region("no_grad")
        >>> torch.is_grad_enabled()
        False
        >>> leave_region(region)
        >>> torch.is_grad_enabled()
        True
    """
    region = _KINDS[kind](*options)
    region.__enter__()
    _OPEN.regions.append(region)
    return len(_OPEN.regions) - 1


def leave_region(number: int) -> None:
    """Leaves the region, and those that were entered inside of it."""
    while len(_OPEN.regions) > number:
        _OPEN.regions.pop().__exit__(None, None, None)


@contextmanager
def closed_on_error() -> Iterator[None]:
    """Leaves the regions that a call which failed has left open."""
    number = len(_OPEN.regions)
    try:
        yield
    except BaseException:
        leave_region(number)
        raise
