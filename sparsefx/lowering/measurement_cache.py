"""The file in which measurements of this machine are remembered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sparsefx.files.cache_folder import cache_folder, locked, read_own
from sparsefx.files.whole_file import replacing
from sparsefx.policies.latency_line import Line

_MOST = 1e12  # milliseconds: 30 years


@dataclass(frozen=True, slots=True)
class Measurements:
    """What is known, each under a key that says what it depends on.

    Attributes:
        lines: of layers.
        shares: times of lowered models over those of the dense ones.
    """

    lines: dict[str, Line] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def cache_file() -> Path | None:
    """Where measurements are remembered; None where they cannot be.

    Example:
        >>> path = cache_file()
        >>> path is None or path.name == "latency.json"
        True
    """
    folder = cache_folder()
    return None if folder is None else folder / "latency.json"


def read(path: Path | None) -> Measurements:
    """What was remembered; an entry that no measurement can have given is left out."""
    content = None if path is None else read_own(path)
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        found = {}
    lines, shares = _entries(found, "lines"), _entries(found, "shares")
    return Measurements(
        {key: Line(**entry) for key, entry in lines.items() if _is_line(entry)},
        {key: entry for key, entry in shares.items() if _is_time(entry) and entry > 0},
    )


def write(path: Path | None, known: Measurements) -> None:
    """Adds to what is remembered; a folder that cannot be written is no error."""
    if path is None:
        return
    with contextlib.suppress(OSError), locked(path.parent):
        there = read(path)  # other processes measure too
        lines = {**there.lines, **known.lines}
        entries = {
            "lines": {key: asdict(line) for key, line in lines.items()},
            "shares": {**there.shares, **known.shares},
        }
        with replacing(path, 0o600) as made:
            made.write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


def _entries(found: Any, name: str) -> Mapping[str, Any]:
    entries = found.get(name) if isinstance(found, dict) else None
    return entries if isinstance(entries, dict) else {}


def _is_line(entry: Any) -> bool:
    names = {part.name for part in fields(Line)}
    if not isinstance(entry, dict) or entry.keys() != names:
        return False
    numbers = [value for name, value in entry.items() if name != "form"]
    return isinstance(entry["form"], str) and all(map(_is_time, numbers))


def _is_time(entry: Any) -> bool:
    kind = isinstance(entry, (int, float)) and not isinstance(entry, bool)
    return kind and 0 <= entry < _MOST
