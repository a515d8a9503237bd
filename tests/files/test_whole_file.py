"""A file is written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest

from sparsefx.files.whole_file import replacing


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_it_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o604)
    with replacing(path) as made:
        made.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o604
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with replacing(path) as made:
            made.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_has_the_processs_mode(tmp_path: Path, umask: Any) -> None:
    def write(name, mode=None):
        with replacing(tmp_path / name, mode) as made:
            made.unlink()  # as a library does that renames by itself
            made.write_text("new")
            made.chmod(0o600)
        return (tmp_path / name).stat().st_mode & 0o777

    assert write("usual") == 0o640
    assert write("own", 0o600) == 0o600
    assert write("run", 0o700) == 0o700


def test_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as made:
        made.write_text("new")
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "new"
