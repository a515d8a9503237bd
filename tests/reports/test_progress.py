"""Progress shows on a terminal, with tqdm and without, and nowhere else."""

import io
import sys

import pytest

from sparsefx.reports.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("lower", 2) as begin:
        begin("fc1")
        begin("fc2")
    return stream.getvalue()


def test_quiet_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, io.StringIO()) == ""


def test_a_bar_where_tqdm_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm", reason="tqdm is missing: pip install '.[examples]'")
    text = told(monkeypatch, Terminal())
    assert "lower" in text
    assert "0/2" in text
    assert "fc1" in text


def test_a_line_that_goes_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    text = told(monkeypatch, Terminal())
    assert "lower: fc1" in text
    assert "lower: fc2" in text
    assert text.endswith("\r\x1b[K")
