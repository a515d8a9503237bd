"""Builds `cpu.cpp` with the machine's own compiler, once, and loads it.

The library lands in the user's cache folder under a name that says what it was made
from, so that another version, compiler or processor makes its own.
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

SOURCES = tuple(Path(__file__).with_name(name) for name in ("cpu.cpp", "lanes.h"))
# The processor's own instructions, where the compiler can tell them.
_TARGETS = ("-march=native", "-mcpu=native", "")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
_PATIENCE = 120  # seconds for one attempt; it takes about two


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where no C++ compiler can make them."""
    compiler = compiler_path()
    if compiler is None:
        return None
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "sparsefx"
    failures = (OSError, RuntimeError, subprocess.SubprocessError)
    with contextlib.suppress(*failures):  # not writable, not executable
        return ctypes.CDLL(str(_built(compiler, folder)))
    with contextlib.suppress(*failures), tempfile.TemporaryDirectory() as folder_:
        return ctypes.CDLL(str(_built(compiler, Path(folder_))))  # stays when loaded
    return None


def compiler_path() -> str | None:
    """The machine's C++ compiler, or None.

    Example:
        >>> compiler_path() is None or compiler_path().startswith("/")
        True
    """
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((found for n in names if n and (found := shutil.which(n))), None)


def _built(compiler: str, folder: Path) -> Path:
    """Path of the library, compiled unless it is there."""
    made_of = [
        *(s.read_text() for s in SOURCES),
        compiler,
        _version(compiler),
        _processor(),
        *_FLAGS,
    ]
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    path = folder / f"cpu-{key}.so"
    if path.exists():
        return path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / path.name
        for target in _TARGETS:
            command = [
                compiler,
                *_FLAGS,
                *target.split(),
                str(SOURCES[0]),
                "-o",
                str(made),
            ]
            done = subprocess.run(
                command, capture_output=True, timeout=_PATIENCE, check=False
            )
            if done.returncode == 0:
                break
        os.replace(made, path)  # whole or not at all: other processes build it too
    return path


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
