"""How far something long has come, on a terminal; nowhere else a word."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told what begins; the line goes when all is done.

    Where tqdm is installed it is one of its bars. Nothing is written where standard
    error is no terminal.

    Args:
        what: names the whole.
        total: parts it has, where that is known.

    Example:
        >>> with progress("lower", total=2) as begin:
        ...     for layer in ("fc1", "fc2"):
        ...         begin(layer)
    """
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda name: _write(f"{what}: {name}")
        _write("")
        return
    with tqdm(total=total, desc=what, leave=False) as bar:
        started = False

        def begin(name: str) -> None:
            nonlocal started
            bar.set_postfix_str(name, refresh=not started)
            bar.update(int(started))
            started = True

        yield begin


def _write(text: str) -> None:
    """Puts a text in place of the terminal's last line."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()
