"""Times of calls, measured in turns so that a busy machine harms all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

_SAMPLE = 2e-3  # seconds a sample should last, above the clock's grain
_LEAST = 1e-7  # seconds a call takes, whatever the clock says
_MOST = 64
_HOPELESS = 3.0  # times the first call's time


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 7
) -> dict[str, float]:
    """Median milliseconds of each call, over rounds in which each has its turn.

    On a CPU with one thread it is that thread's own time, which other processes disturb
    least, and which stays fine where a limit of CPU time (``ulimit -t``) makes that of
    the process coarse; otherwise the wall clock, after the device is done.

    A call that twice takes over three times as long as the first of all, which the
    others are to beat, is not measured again.

    Args:
        calls: what to time, by name; each is warmed up.
        device: where they run.
        rounds: samples of each, at least 1.

    Example:
        >>> found = interleaved({"sum": lambda: sum(range(9))}, torch.device("cpu"), 3)
        >>> list(found), found["sum"] > 0
        (['sum'], True)
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter

    def seconds(call: Callable[[], object], times: int) -> float:
        _wait(device)
        start = clock()
        for _ in range(times):
            call()
        _wait(device)
        return max((clock() - start) / times, _LEAST)

    once: dict[str, float] = {}
    for name, call in calls.items():
        call()
        once[name] = seconds(call, 1)
    limit = _HOPELESS * next(iter(once.values()), 0.0)
    for name, took in once.items():
        if took > limit:  # or was disturbed
            once[name] = min(took, seconds(calls[name], 1))
    samples: dict[str, list[float]] = {
        name: [] if took <= limit else [took] for name, took in once.items()
    }
    left = [name for name, found in samples.items() if not found]
    for _ in range(rounds):
        for name in left:
            times = min(max(1, math.ceil(_SAMPLE / once[name])), _MOST)
            samples[name].append(seconds(calls[name], times))
    return {name: 1e3 * statistics.median(found) for name, found in samples.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
