"""What a recording must notice beside torch functions: modules, regions, Functions.

Classes of torch are patched while a recording runs, and put back after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

_MODULE: Any = nn.Module


class Observer(Protocol):
    """Who is told of a call; ``original`` does it as torch would."""

    paused: bool

    def module(
        self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        """A module is called."""

    def function(
        self, kind: Any, original: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """``apply`` of ``kind``, a `torch.autograd.Function`, is called."""

    def enter(self, region: object, kind: str, options: tuple[Any, ...]) -> None:
        """A region of another gradient or autocast mode has been entered."""

    def leave(self, region: object) -> None:
        """It has been left."""


@contextmanager
def told(observer: Observer) -> Iterator[None]:
    """Tells ``observer`` of all such calls, unless it is paused."""
    call = nn.Module.__call__
    apply = torch.autograd.Function.__dict__["apply"]
    autocast: Any = torch.autocast
    autocast_enter, autocast_exit = autocast.__enter__, autocast.__exit__
    gradients: Any = torch.set_grad_enabled
    init, again = gradients.__init__, gradients.__enter__

    def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if observer.paused:
            return call(module, *args, **kwargs)
        return observer.module(call, module, args, kwargs)

    def call_function(kind: Any, *args: Any, **kwargs: Any) -> Any:
        run = apply.__get__(None, kind)
        if observer.paused:
            return run(*args, **kwargs)
        return observer.function(kind, run, args, kwargs)

    def enter_autocast(region: Any) -> Any:
        out = autocast_enter(region)
        if not observer.paused:
            observer.enter(region, "autocast", _autocast(region.device))
        return out

    def set_gradients(region: Any, mode: bool) -> None:
        quietly(observer, init, region, mode)
        if not observer.paused:
            observer.enter(region, "set_grad_enabled", (bool(mode),))

    def set_again(region: Any) -> None:
        quietly(observer, again, region)

    patches: list[tuple[Any, str, Any]] = [
        (_MODULE, "__call__", call_module),
        (torch.autograd.Function, "apply", classmethod(call_function)),
        (torch.autocast, "__enter__", enter_autocast),
        (torch.autocast, "__exit__", _leaving(observer, autocast_exit)),
        (torch.set_grad_enabled, "__init__", set_gradients),
        (torch.set_grad_enabled, "__enter__", set_again),
    ]
    for kind in (torch.no_grad, torch.enable_grad):
        patches.append((kind, "__enter__", _entering(observer, kind)))
    for left in (torch.no_grad, torch.enable_grad, torch.set_grad_enabled):
        patches.append((left, "__exit__", _leaving(observer, left.__exit__)))
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    try:
        for owner, name, patch in patches:
            setattr(owner, name, patch)
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)


@functools.cache
def applied(kind: Any) -> Callable[..., Any]:
    """``kind.apply`` under a name of its own, as a graph can call it."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return kind.apply(*args, **kwargs)

    apply.__name__ = apply.__qualname__ = kind.__name__
    return apply


def quietly(
    observer: Observer, run: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Runs something whose calls are no part of the recording."""
    before, observer.paused = observer.paused, True
    try:
        return run(*args, **kwargs)
    finally:
        observer.paused = before


def _entering(observer: Observer, kind: Any) -> Callable[[Any], Any]:
    original = kind.__enter__

    def enter(region: Any) -> Any:
        out = quietly(observer, original, region)
        if not observer.paused:
            observer.enter(region, kind.__name__, ())
        return out

    return enter


def _leaving(observer: Observer, original: Any) -> Callable[..., Any]:
    def leave(region: Any, *error: Any) -> Any:
        out = quietly(observer, original, region, *error)
        if not observer.paused:
            observer.leave(region)
        return out

    return leave


def _autocast(device: str) -> tuple[Any, ...]:
    return (
        device,
        torch.get_autocast_dtype(device),
        torch.is_autocast_enabled(device),
        torch.is_autocast_cache_enabled(),
    )
