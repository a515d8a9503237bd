"""Tensors and notes in one safetensors file, written whole, with a seal.

The seal is the SHA-256 of the whole file in which the seal's own 64 digits are zeros:
no bit of the file, its header included, changes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsefx.errors import MaskError, SparsefxError
from sparsefx.files.whole_file import replacing

NOTES = "sparsefx"  # keys of the file's metadata
SEAL = "sparsefx.sha256"
# So it stands in the header. Inside any other string quotes have a backslash.
_MARK = f'"{SEAL}":"'.encode()
_OPEN = b"0" * 64


def write(
    path: str | Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> int:
    """Writes a file, or leaves what is there as it is; returns its size.

    Args:
        path: the file; a link is followed. Its folder must exist.
        tensors: contiguous tensors on the CPU by key, no two of which share memory.
        notes: what JSON can hold.

    Raises:
        MaskError: the file cannot be written.
        SparsefxError: the package safetensors is missing.

    Example:
        >>> write("ones.safetensors", {"a": Tensor([1, 1, 1])}, {"of": "ones"}) > 12
        True
        >>> read("ones.safetensors")
        ({'of': 'ones'}, {'a': tensor([1., 1., 1.])})
    """
    library, place = _safetensors(), _resolved(path)
    if os.path.exists(place) and not os.path.isfile(place):
        raise MaskError(f"{path} is no ordinary file; give the name of one")
    if not os.path.isdir(place.parent):
        raise MaskError(f"{path} cannot be written: there is no folder {place.parent}")
    metadata = {NOTES: json.dumps(notes), SEAL: _OPEN.decode()}
    try:
        with replacing(place) as made:
            library.save_file(dict(tensors), str(made), metadata)
            with made.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
                start = _start(data)
                data[start : start + len(_OPEN)] = _digest(data, start)
    except Exception as error:
        raise MaskError(
            f"{path} cannot be written ({type(error).__name__}: {error}); what was "
            "there is as it was; choose another place, or another format: "
            "torch.save(module.state_dict(), path)"
        ) from error
    return place.stat().st_size


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The notes and tensors that `write` was given.

    Raises:
        MaskError: `write` has not written this file, or it is damaged.
        SparsefxError: the package safetensors is missing.
    """
    library, place = _safetensors(), _resolved(path)
    if not os.path.isfile(place):
        there = "no ordinary file" if os.path.exists(place) else "not there"
        raise MaskError(f"{path} is {there}; give a file that sparsefx.save wrote")
    try:
        whole = _whole(place)
    except OSError as error:
        raise MaskError(f"{path} cannot be read ({error.strerror})") from error
    if whole is None:
        raise MaskError(
            f"{path} is not a file that sparsefx.save wrote, or its beginning is "
            "damaged; safetensors.torch.load_model reads safetensors files of others"
        )
    if not whole:
        raise MaskError(
            f"{path} is damaged: its bytes do not have the checksum that stands in "
            "it; restore another checkpoint"
        )
    with library.safe_open(str(place), framework="pt") as file:
        notes = json.loads(file.metadata()[NOTES])
        return notes, {key: file.get_tensor(key) for key in file.keys()}


def _whole(place: Path) -> bool | None:
    """Whether a file is as it was written; None where it has no seal."""
    with place.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= len(_MARK) + len(_OPEN):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = _start(data)
            return (
                None
                if not start
                else data[start : start + len(_OPEN)] == _digest(data, start)
            )


def _start(data: mmap.mmap) -> int:
    """Where the digits of a file's seal begin; 0 if it has none."""
    end = 8 + int.from_bytes(data[:8], "little")
    found = data.find(_MARK, 8, min(end, len(data)))
    return 0 if found < 0 else found + len(_MARK)


def _digest(data: mmap.mmap, start: int) -> bytes:
    """The seal of a file whose seal is at ``start``, whatever stands there."""
    with memoryview(data) as view:
        found = hashlib.sha256(view[:start])
        found.update(_OPEN)
        found.update(view[start + len(_OPEN) :])
    return found.hexdigest().encode()


def _resolved(path: str | Path) -> Path:
    try:
        return Path(path).resolve()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise MaskError(
            f"path is {path!r}, which names no file ({error}); give a str or a Path"
        ) from error


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise SparsefxError(
            'save and load need safetensors: pip install "sparsefx[checkpoint]"; or '
            "use torch.save(module.state_dict(), path)"
        ) from error

    class _Both:
        save_file = staticmethod(safetensors.torch.save_file)
        safe_open = staticmethod(safetensors.safe_open)

    return _Both
