"""Tensors that functions keep under `functools.lru_cache`, out of a recording's way.

Such a function depends on its arguments only, or caching it would already be wrong.
While a recording runs it is called anew, so that its work becomes part of the graph;
what it made of fake tensors is forgotten afterwards.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

_KIND: Any = functools._lru_cache_wrapper
_OTHERS = frozenset({"torch", "sympy", "mpmath", "numpy", "sparsefx"})
# How many misses a cache had when all it kept was seen to be no tensor, for good.
_PLAIN: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class _Seen:
    """All cached functions at the last look, and what then referred to their type."""

    known: list[weakref.ref[Any]] = []  # noqa: RUF012 - a look replaces it
    references = -1


_SEEN = _Seen()


def function_caches() -> list[Any]:
    """All cached functions of this process, but those of torch and what it uses.

    They are looked for among all objects, which takes longer the more there are, so
    only where one may have come: each refers to its type and is counted there.
    """
    found = [cache for known in _SEEN.known if (cache := known()) is not None]
    if len(found) < len(_SEEN.known) or sys.getrefcount(_KIND) != _SEEN.references:
        found = [each for each in gc.get_referrers(_KIND) if type(each) is _KIND]
        _SEEN.known = [weakref.ref(each) for each in found]
        _SEEN.references = sys.getrefcount(_KIND)
    return [
        each
        for each in found
        if str(getattr(each, "__module__", "")).partition(".")[0] not in _OTHERS
    ]


@contextmanager
def forgotten(caches: Sequence[Any]) -> Iterator[None]:
    """Empties the caches that hold tensors, on entering and again on leaving.

    Example:
        >>> import torch
        >>> @functools.lru_cache
        ... def table(size):
        ...     return torch.arange(size)
        >>> first = table(3)
        >>> with forgotten([table]):
        ...     table.cache_info().currsize
        0
    """
    _forget(caches)
    try:
        yield
    finally:
        _forget(caches)


def _forget(caches: Sequence[Any]) -> None:
    for cache in caches:
        if cache.cache_info().currsize and _holds_tensors(cache):
            cache.cache_clear()


def _holds_tensors(cache: Any) -> bool:
    """Whether a cached function keeps a tensor, or a container of some."""
    misses = cache.cache_info().misses
    if _PLAIN.get(cache) == misses:
        return False
    own = vars(cache)
    kept = list(_inside(found for found in gc.get_referents(cache) if found is not own))
    if any(isinstance(found, Tensor) for found in kept):
        return True
    # One of these is the cache's own; others may get a tensor without any call.
    if sum(isinstance(found, list | dict) for found in kept) <= 1:
        _PLAIN[cache] = misses
    return False


def _inside(found: Iterable[Any]) -> Iterator[Any]:
    """These, and what tuples, lists and dicts among them hold, each once."""
    rest, seen = list(found), set[int]()
    while rest:
        value = rest.pop()
        yield value
        if isinstance(value, tuple | list | dict) and id(value) not in seen:
            seen.add(id(value))
            rest += value.values() if isinstance(value, dict) else value
