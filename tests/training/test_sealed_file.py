"""A sealed file is written whole or not at all, and no bit of it changes unnoticed."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparsefx
from sparsefx.training.sealed_file import read, write

TENSORS = {
    "float": torch.tensor([[1.5, -0.0], [float("nan"), float("inf")]]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
NOTES = {"list": [1, 2.5, None], 'a "quoted" text': "é"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "a.safetensors", TENSORS, NOTES)
    return tmp_path / "a.safetensors"


def test_what_was_written_is_read(path: Path) -> None:
    notes, tensors = read(path)
    assert notes == NOTES
    assert tensors.keys() == TENSORS.keys() == load_file(path).keys()
    for key, value in TENSORS.items():
        assert tensors[key].dtype == value.dtype
        assert tensors[key].shape == value.shape
        flat = tensors[key].flatten()
        assert flat.view(torch.uint8).equal(value.flatten().view(torch.uint8))


def test_the_seal_is_the_hash_of_the_file_without_it(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b'"sparsefx.sha256":"') + 19
    opened = data[:at] + b"0" * 64 + data[at + 64 :]
    assert hashlib.sha256(opened).hexdigest().encode() == data[at : at + 64]


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, {"w": torch.arange(3.0)}, {"a": 1})
    data = path.read_bytes()
    for place in range(8 * len(data)):
        broken = bytearray(data)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(sparsefx.MaskError, match=r"damaged"):
            read(path)


def test_any_missing_end_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(sparsefx.MaskError, match=r"damaged"):
            read(path)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.ones(2)}, other)
    (tmp_path / "random").write_bytes(os.urandom(1000))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("other.safetensors", "random", "empty"):
        with pytest.raises(sparsefx.MaskError, match=rf"{name} is not a file that"):
            read(tmp_path / name)
    with pytest.raises(sparsefx.MaskError, match=r"is no ordinary file; give"):
        read(tmp_path)
    with pytest.raises(sparsefx.MaskError, match=r"missing is not there; give"):
        read(tmp_path / "missing")
    for odd in (5, None, "a\0b", b"bytes", "a" * 5000):
        with pytest.raises(sparsefx.MaskError):
            read(odd)  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sparsefx.MaskError, match=r"no ordinary file"):
        write(tmp_path, TENSORS, NOTES)
    with pytest.raises(sparsefx.MaskError, match=r"there is no folder"):
        write(tmp_path / "missing" / "a", TENSORS, NOTES)
    with pytest.raises(sparsefx.MaskError, match=r"names no file"):
        write(7, TENSORS, NOTES)  # type: ignore[arg-type]
    with pytest.raises(sparsefx.MaskError, match=r"no ordinary file"):
        write("/dev/null", TENSORS, NOTES)
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()
    shared = torch.ones(4)
    with pytest.raises(sparsefx.MaskError, match=r"(?s)cannot be written .*as it was"):
        write(path, {"a": shared, "b": shared}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_modes_and_links(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    latest = tmp_path / "latest"
    latest.symlink_to(tmp_path / "run" / "a")
    before = os.umask(0o027)
    try:
        write(latest, TENSORS, NOTES)
    finally:
        os.umask(before)
    assert latest.is_symlink()
    assert stat.S_IMODE((tmp_path / "run" / "a").stat().st_mode) == 0o640
    (tmp_path / "run" / "a").chmod(0o604)
    write(latest, {}, NOTES)
    assert stat.S_IMODE((tmp_path / "run" / "a").stat().st_mode) == 0o604
    assert read(latest) == (NOTES, {})
    assert os.listdir(tmp_path / "run") == ["a"]
