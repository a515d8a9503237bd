"""Measurements are remembered whole, and believed only where they can be true."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from sparsefx.lowering.measurement_cache import Measurements, cache_file, read, write
from sparsefx.policies.latency_line import Line

LINE = {"dense": 2.0, "fixed": 0.5, "slope": 5.0, "residual": 0.0, "form": "csr"}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEFX_CACHE", str(tmp_path))
    return tmp_path / "latency.json"


def test_what_is_written_comes_back(path: Path) -> None:
    known = Measurements({"a": Line(**LINE)}, {"b": 0.5})
    write(cache_file(), known)
    assert read(path) == known
    assert path.stat().st_mode & 0o777 == 0o600


def test_others_measure_too(path: Path) -> None:
    threads = [
        threading.Thread(target=write, args=(path, Measurements({}, {str(n): 1.0})))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read(path).shares) == {str(n) for n in range(8)}


@pytest.mark.parametrize(
    "harm",
    [
        {"dense": -1.0},
        {"dense": float("nan")},
        {"slope": float("inf")},
        {"slope": 10**400},
        {"fixed": "0.5"},
        {"fixed": True},
        {"form": 3},
        {"more": 1.0},
    ],
)
def test_a_line_that_cannot_be_is_left_out(path: Path, harm: Any) -> None:
    entries = {"good": LINE, "bad": {**LINE, **harm}, "none": None}
    path.write_text(json.dumps({"lines": entries, "shares": {"zero": 0, "half": 0.5}}))
    assert read(path) == Measurements({"good": Line(**LINE)}, {"half": 0.5})


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "3", '{"lines": []}', "[" * 100_000, "\x00\xff"]
)
def test_a_damaged_file_is_measured_anew(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    assert read(path) == Measurements()
    write(path, Measurements({}, {"a": 1.0}))
    assert read(path).shares == {"a": 1.0}


def test_links_are_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(json.dumps({"shares": {"planted": 1.0}}))
    path.symlink_to(target)
    assert read(path) == Measurements()
    write(path, Measurements({}, {"a": 1.0}))
    assert "planted" in target.read_text()
    assert not path.is_symlink()
    assert read(path).shares == {"a": 1.0}


def test_without_a_folder_nothing_is_remembered(tmp_path: Path) -> None:
    write(None, Measurements())
    write(tmp_path / "none" / "latency.json", Measurements())
    assert read(None) == Measurements()
