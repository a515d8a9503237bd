"""The folder in which this user's machine remembers what it has built and measured.

What lies there is loaded and run, so that it must be nobody else's: the folder belongs
to the user and only the user may write into it, and so do the files that are read.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from sparsefx.errors import SparsefxError

try:
    import fcntl
except ImportError:  # Windows: no such locks, and whole files need none
    fcntl = None  # type: ignore[assignment]

VARIABLE = "SPARSEFX_CACHE"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def cache_folder() -> Path | None:
    """The folder, made if it is not there; None where it cannot be used.

    It is ``SPARSEFX_CACHE``, or ``sparsefx`` in the user's cache folder: an absolute
    ``XDG_CACHE_HOME``, or ``~/.cache``. One that others could have written into is
    told of and left alone.

    Raises:
        SparsefxError: ``SPARSEFX_CACHE`` is not an absolute path.

    Example:
        >>> folder = cache_folder()
        >>> folder is None or folder.is_absolute()
        True
    """
    try:
        folder = _place()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = _fault(folder.stat())
    except (OSError, RuntimeError):  # not writable, no home
        return None
    if fault is None:
        return folder
    warnings.warn(
        f"{folder} {fault}, so that nothing in it is used: kernels and measurements "
        f"are made anew; `chmod 700` your own folder, or set {VARIABLE} to another",
        stacklevel=2,
    )
    return None


def read_own(path: Path) -> bytes | None:
    """A file's bytes; None where it is missing, a link, or not the user's alone.

    Example:
        >>> _ = Path("own").write_bytes(b"kept")
        >>> Path("own").chmod(0o600)
        >>> read_own(Path("own")), read_own(Path("none"))
        (b'kept', None)
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | _NO_LINKS | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode) and _fault(found) is None:
                return file.read()
    return None


@contextlib.contextmanager
def locked(folder: Path, patience: float = 400.0) -> Iterator[None]:
    """One process at a time in the block.

    Args:
        folder: whose lock is held.
        patience: seconds to wait for the others.

    Raises:
        TimeoutError: another process has held the lock all the time.
        OSError: the folder cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | _NO_LINKS
    handle = os.open(folder / "lock", flags, 0o600)
    try:
        _take(handle, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _take(handle: int, deadline: float) -> None:
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds the lock") from None
            time.sleep(0.02)
        except OSError:  # a file system without locks: files are whole all the same
            break


def _place() -> Path:
    own = os.environ.get(VARIABLE)
    if own:
        if not os.path.isabs(own):
            raise SparsefxError(
                f"{VARIABLE}={own!r} is not an absolute path: what is loaded from it "
                f"would depend on where you stand; give {str(Path(own).absolute())!r}"
            )
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    if not folder.is_absolute():
        raise RuntimeError(f"the home folder {folder} is not absolute")
    return folder / "sparsefx"


def _fault(found: os.stat_result) -> str | None:
    """Why others could have written it."""
    if not hasattr(os, "getuid"):
        return None  # Windows: the profile's folders are the user's
    if found.st_uid not in (os.getuid(), 0):
        return f"belongs to user {found.st_uid}"
    if found.st_mode & _OTHERS:
        return "can be written by others"
    return None
