"""Tensors that functions keep under `functools.lru_cache`, out of a recording's way.

Such a function depends on its arguments only, or caching it would already be wrong.
While a recording runs it is called anew, so that its work becomes part of the graph;
what it made of fake tensors is forgotten afterwards.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sparsefx.torch_internals import tree_flatten

_KIND: Any = functools._lru_cache_wrapper
_OTHERS = frozenset({"torch", "sympy", "mpmath", "numpy", "sparsefx"})


def function_caches() -> list[Any]:
    """All cached functions of this process, but those of torch and what it uses."""
    return [
        found
        for found in gc.get_objects()
        if type(found) is _KIND
        and str(getattr(found, "__module__", "")).partition(".")[0] not in _OTHERS
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
    kinds = (Tensor, list, tuple, dict)
    kept = [found for found in gc.get_referents(cache) if isinstance(found, kinds)]
    return any(isinstance(leaf, Tensor) for leaf in tree_flatten(kept)[0])
