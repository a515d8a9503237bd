"""Other people's trainers: the step at the right moment, before anything is saved.

``sparsefx.integrations.huggingface`` and ``sparsefx.integrations.lightning`` are
imported when they are first used. They need ``pip install "sparsefx[integrations]"``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_TRAINERS = ("huggingface", "lightning")


def missing(package: str, error: ImportError) -> ModuleNotFoundError:
    """Says which package a trainer's callback needs, and how to get it.

    Example:
        >>> raise missing("lightning", ImportError("none"))
        Traceback (most recent call last):
        ModuleNotFoundError: needs lightning (none); pip install
        "sparsefx[integrations]"
    """
    return ModuleNotFoundError(
        f'needs {package} ({error}); pip install "sparsefx[integrations]"',
        name=package,
    )


def __getattr__(name: str) -> ModuleType:
    if name in _TRAINERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
