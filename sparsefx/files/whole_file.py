"""A file is written whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Gives a path to write to; that file takes the place of ``path`` at the end.

    If the block raises, ``path`` is as it was, and nothing else is left. A link is
    replaced, not followed.

    Args:
        path: the file to write; its folder exists.
        mode: who may read and write it; None is what an earlier file had, and for a
            new one what the process gives to new files.

    Example:
        >>> with replacing(Path("answer.txt")) as made:
        ...     _ = made.write_text("42")
        >>> Path("answer.txt").read_text()
        '42'
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sparsefx-") as work:
        made = Path(work) / "made"
        made.touch(0o666)  # what the umask leaves of it
        usual = made.stat().st_mode
        with contextlib.suppress(FileNotFoundError):
            there = path.lstat()
            if stat.S_ISREG(there.st_mode):
                usual = there.st_mode
        yield made
        made.chmod(stat.S_IMODE(usual) if mode is None else mode)
        with made.open("rb+") as file:
            os.fsync(file.fileno())  # the bytes first, then the name
        os.replace(made, path)
