"""The compiled kernels: built once, by one process, loaded only where nobody else
can have written."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsefx import kernels
from sparsefx.kernels import compile_cpu, reference

pytestmark = pytest.mark.skipif(
    compile_cpu.compiler_path() is None, reason="no C++ compiler"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEFX_CACHE", str(tmp_path))
    compile_cpu.library.cache_clear()
    yield tmp_path
    compile_cpu.library.cache_clear()


compiled = functools.cache(compile_cpu._compiled)


@pytest.fixture
def built(monkeypatch):
    """How often the compiler runs; what it makes is compiled once for all tests."""
    calls = []

    def counted(compiler):
        calls.append(compiler)
        return compiled(compiler)

    monkeypatch.setattr(compile_cpu, "_compiled", counted)
    return calls


def loaded():
    compile_cpu.library.cache_clear()
    return compile_cpu.library()


def kept(folder):
    (path,) = folder.glob("cpu-*.so")
    return path


def test_it_is_built_once(folder: Path, built: list[str]) -> None:
    assert loaded() is not None
    assert loaded() is not None
    assert len(built) == 1
    assert kept(folder).stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(folder)) == [kept(folder).name, "lock"]


@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped"])
def test_a_broken_file_is_built_anew(folder: Path, built: list[str], harm: Any) -> None:
    loaded()
    path = kept(folder)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.unlink()  # it is loaded here: its own bytes must not change
    path.write_bytes(
        {
            "cut": whole[:middle],
            "emptied": b"",
            "flipped": whole[:middle]
            + bytes([whole[middle] ^ 1])
            + whole[middle + 1 :],
        }[harm]
    )
    assert loaded() is not None
    assert len(built) == 2
    assert kept(folder).read_bytes() == whole


def test_what_others_can_write_is_not_loaded(folder: Path, built: list[str]) -> None:
    loaded()
    kept(folder).chmod(0o722)
    loaded()
    assert len(built) == 2
    assert kept(folder).stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_loaded(
    folder: Path, built: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    loaded()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "planted.so"
    place = kept(folder)
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    loaded()
    assert len(built) == 2
    assert not place.is_symlink()


def test_a_planted_library_is_not_loaded(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is right; its bytes are not what the name says."""
    loaded()
    opened = []
    monkeypatch.setattr(compile_cpu.ctypes, "CDLL", lambda path: opened.append(path))
    key = kept(folder).stem.split("-")[1]
    planted = folder / f"cpu-{key}-{'0' * 16}.so"
    planted.write_bytes(b"planted")
    loaded()
    assert opened == [str(kept_of(folder, planted))]


def kept_of(folder, other):
    (path,) = [path for path in folder.glob("cpu-*.so") if path != other]
    return path


def test_a_folder_of_others_is_told_of_and_built_aside(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded()
    folder.chmod(0o777)
    opened = []
    monkeypatch.setattr(compile_cpu.ctypes, "CDLL", lambda path: opened.append(path))
    with pytest.warns(UserWarning, match="can be written by others"):
        loaded()
    assert len(built) == 2
    assert opened
    assert not opened[0].startswith(str(folder))


def test_where_the_cache_cannot_be_written_it_is_built_aside(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("SPARSEFX_CACHE", str(folder / "file"))
    assert loaded() is not None
    assert len(built) == 1


def test_a_relative_place_is_not_used(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SPARSEFX_CACHE")
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "xdg")
    assert loaded() is not None
    assert not (folder / "xdg").exists()
    assert kept(folder / "home" / ".cache" / "sparsefx")


@pytest.mark.slow
def test_two_processes_build_one_library(folder: Path) -> None:
    code = (
        "from sparsefx.kernels import compile_cpu\n"
        "compiled = compile_cpu._compiled\n"
        "def told(compiler):\n"
        "    print('built')\n"
        "    return compiled(compiler)\n"
        "compile_cpu._compiled = told\n"
        "print(compile_cpu.library() is not None)\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [run.communicate()[0].split() for run in runs]
    assert sorted(said) == [["True"], ["built", "True"]]
    assert kept(folder)


def test_a_compiler_has_a_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("CXX", "./mine")
    assert compile_cpu.compiler_path() != "./mine"
    monkeypatch.setenv("CXX", str(tmp_path / "mine"))
    assert compile_cpu.compiler_path() == str(tmp_path / "mine")


def test_a_compiler_that_fails_leaves_the_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "false").write_text("#!/bin/sh\necho broken\nexit 1\n")
    (folder / "false").chmod(0o755)
    monkeypatch.setenv("CXX", str(folder / "false"))
    assert loaded() is None
    assert not list(folder.glob("cpu-*"))


def test_without_a_compiler_the_reference_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert loaded() is None
    assert kernels.kernels_for([torch.ones(3)]) is reference
