"""The cache folder: where it is, and whom it is trusted to."""

import os
import threading
import warnings
from pathlib import Path

import pytest

from sparsefx.errors import SparsefxError
from sparsefx.files.cache_folder import cache_folder, locked, read_own


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("SPARSEFX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def of_somebody_else(path, monkeypatch):
    """Root can give a file away; others see it with other eyes."""
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)


def test_it_is_the_users_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == home / ".cache" / "sparsefx"
    assert (home / ".cache" / "sparsefx").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_folder() == home / "xdg" / "sparsefx"
    monkeypatch.setenv("SPARSEFX_CACHE", str(home / "own"))
    assert cache_folder() == home / "own"


def test_a_relative_place_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder() == home / ".cache" / "sparsefx"
    assert not Path("here").exists()
    monkeypatch.setenv("SPARSEFX_CACHE", "here")
    with pytest.raises(SparsefxError, match=r"'here' is not an absolute path.*/here'"):
        cache_folder()
    monkeypatch.delenv("SPARSEFX_CACHE")
    monkeypatch.setenv("HOME", "here")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720])
def test_a_folder_that_others_can_write_is_told_of(
    home: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("SPARSEFX_CACHE", str(home))
    home.chmod(mode)
    with pytest.warns(UserWarning, match="can be written by others.*chmod 700"):
        assert cache_folder() is None
    home.chmod(0o755)
    assert cache_folder() == home


def test_somebody_elses_folder_is_told_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSEFX_CACHE", str(home))
    of_somebody_else(home, monkeypatch)
    with pytest.warns(UserWarning, match="belongs to user"):
        assert cache_folder() is None


def test_what_cannot_be_a_folder_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("SPARSEFX_CACHE", str(home / "file" / "below"))
    assert cache_folder() is None


def test_only_own_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.write_bytes(b"kept")
    assert read_own(own) == b"kept"
    (tmp_path / "link").symlink_to(own)
    assert read_own(tmp_path / "link") is None
    assert read_own(tmp_path) is None
    assert read_own(tmp_path / "none") is None
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert read_own(tmp_path / "pipe") is None
    own.chmod(0o620)
    assert read_own(own) is None
    own.chmod(0o600)
    of_somebody_else(own, monkeypatch)
    assert read_own(own) is None


def test_one_at_a_time(tmp_path: Path) -> None:
    seen, inside = [], []

    def work():
        with locked(tmp_path):
            inside.append(1)
            seen.append(len(inside))
            inside.pop()

    with locked(tmp_path):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        threads[0].join(0.1)
        assert not seen
        with pytest.raises(TimeoutError), locked(tmp_path, patience=0.0):
            pass
    for thread in threads:
        thread.join()
    assert seen == [1] * 4


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked(tmp_path):  # noqa: PT011 - the system's words
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_good_folder_is_no_news(home: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_folder() is not None
