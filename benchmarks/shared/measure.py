"""What the benchmarks share: interleaved rounds, CPU time, peak memory, figures."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from shared.result_lines import RESULTS, append


def device_name() -> str:
    """The processor, or the GPU torch would use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    return next(found, platform.machine())


def rounds(
    calls: Mapping[str, Callable[[], object]],
    count: int,
    before: Callable[[], object] = lambda: None,
    rare: Mapping[str, int] | None = None,
) -> dict[str, dict[str, float]]:
    """Median CPU and wall milliseconds of each call, all called in every round.

    Args:
        calls: what to time, by name.
        count: number of rounds.
        before: called before each round, not timed.
        rare: calls that take part in only so many rounds, the first ones.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for index in range(count):
        before()
        for name, call in calls.items():
            if index >= (rare or {}).get(name, count):
                continue
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            times[name].append((cpu, wall))
    return {
        name: {
            "cpu_ms": 1e3 * median(cpu for cpu, _ in pairs),
            "wall_ms": 1e3 * median(wall for _, wall in pairs),
            "rounds": len(pairs),
        }
        for name, pairs in times.items()
    }


def extra_bytes(call: Callable[[], object]) -> int:
    """Peak resident memory of this process during the call, above that before it."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return -1
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def peak_bytes(make: Callable[[], Callable[[], object]], times: int) -> int:
    """Peak resident memory while what is made is called, above that before making it.

    What making it took and freed does not count.
    """
    before = _status("VmRSS")
    call = make()
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(times):
        call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    return -1


def save(benchmark: str, result: Mapping[str, object]) -> dict[str, object]:
    """Adds a result with the machine's name to the benchmark's file; returns it."""
    head = {"device": device_name(), "torch": torch.__version__, "threads": 1}
    append(RESULTS / f"{benchmark}.jsonl", {**head, **result})
    return {**head, **result}


def bars(path: Path, title: str, rows: Sequence[tuple[str, float]], unit: str) -> None:
    """A bar chart on a logarithmic axis, as SVG."""
    low = min(value for _, value in rows) / 2
    high = max(value for _, value in rows)
    scale = 360 / math.log10(high / low)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 720 {60 + 26 * len(rows)}"'
        ' font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{title}</text>',
    ]
    for i, (name, value) in enumerate(rows):
        y, width = 44 + 26 * i, scale * math.log10(value / low)
        lines += [
            f'<text x="225" y="{y + 14}" text-anchor="end">{name}</text>',
            f'<rect x="233" y="{y}" width="{width:.1f}" height="19" fill="#3b7dd8"/>',
            f'<text x="{239 + width:.1f}" y="{y + 14}">{value:.3g} {unit}</text>',
        ]
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")
