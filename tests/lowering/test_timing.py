"""Times of calls: by a clock that is fine, and never 0."""

import time

import pytest
import torch

from sparsefx.lowering.timing import interleaved

CPU = torch.device("cpu")


def test_a_clock_that_stands_still_makes_no_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "thread_time", lambda: 1.0)
    assert interleaved({"one": lambda: None}, CPU, 1)["one"] > 0


def test_a_limit_of_cpu_time_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one the clock of the process goes by ticks of milliseconds."""
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    calls = {"long": lambda: sum(range(9_000)), "short": lambda: sum(range(9))}
    found = interleaved(calls, CPU, 3)
    assert found["short"] < found["long"]
