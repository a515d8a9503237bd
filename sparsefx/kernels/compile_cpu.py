"""Builds the C++ kernels with the machine's own compiler, once, and loads them.

The library lands in the user's cache folder under a name that says what it was made
from, so that another version, compiler or processor makes its own, and what its bytes
are, so that a damaged one is built anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from sparsefx.files.cache_folder import cache_folder, locked, read_own
from sparsefx.files.whole_file import replacing

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in (
        "cpu.cpp",
        "lanes.h",
        "convolution.cpp",
        "products.cpp",
        "support.cpp",
        "product_rows.h",
        "activations.h",
        "panel_copy.h",
        "vectors.h",
        "spread.h",
    )
)
# The processor's own instructions, where the compiler can tell them.
_TARGETS = ("-march=native", "-mcpu=native", "")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
_PATIENCE = 120  # seconds for one attempt; it takes about twelve


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where no C++ compiler can make them."""
    compiler = compiler_path()
    if compiler is None:
        return None
    folder = cache_folder()
    failures = (OSError, RuntimeError, subprocess.SubprocessError)
    with contextlib.suppress(*failures):  # not writable, not executable
        if folder is not None:
            return ctypes.CDLL(str(_kept(compiler, folder)))
    with contextlib.suppress(*failures), tempfile.TemporaryDirectory() as aside:
        made = Path(aside) / "cpu.so"
        made.write_bytes(_compiled(compiler))
        return ctypes.CDLL(str(made))  # stays when loaded
    return None


def compiler_path() -> str | None:
    """The machine's C++ compiler by its full path, or None.

    Example:
        >>> compiler_path() is None or compiler_path().startswith("/")
        True
    """
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    paths = (shutil.which(name) for name in names if name)
    return next((path for path in paths if path and os.path.isabs(path)), None)


def _kept(compiler: str, folder: Path) -> Path:
    """Path of the library in the cache folder, built unless it is there and whole."""
    made_of = [*(s.read_text() for s in SOURCES), compiler, _version(compiler)]
    key = _digest("\n".join([*made_of, _processor(), *_FLAGS]).encode())
    found = _whole(folder, key)
    if found is not None:
        return found
    with locked(folder):  # one process builds, the others find it
        found = _whole(folder, key)
        if found is not None:
            return found
        content = _compiled(compiler)
        path = folder / f"cpu-{key}-{_digest(content)}.so"
        with replacing(path, 0o700) as made:
            made.write_bytes(content)
        return path


def _whole(folder: Path, key: str) -> Path | None:
    """The library of that key whose bytes are those that its name tells.

    A cut file must not be loaded: it ends the process.
    """
    for path in sorted(folder.glob(f"cpu-{key}-*.so")):
        content = read_own(path)
        if content is not None and path.stem.endswith(_digest(content)):
            return path
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compiled(compiler: str) -> bytes:
    """The library, for this processor where the compiler can."""
    units = [str(source) for source in SOURCES if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "cpu.so"
        for target in _TARGETS:
            flags = [*_FLAGS, *target.split()]
            command = [compiler, *flags, *units, "-o", str(made)]
            done = subprocess.run(
                command, capture_output=True, timeout=_PATIENCE, check=False
            )
            if done.returncode == 0:
                break
        return made.read_bytes()


def _version(compiler: str) -> str:
    command = [compiler, "--version"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_PATIENCE, check=True
    ).stdout


def _processor() -> str:
    """What tells processors apart that run different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return next(
        (x for x in lines if x.lower().startswith(("flags", "features"))),
        platform.machine(),
    )
