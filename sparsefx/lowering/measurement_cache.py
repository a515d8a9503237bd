"""The file in which measurements of this machine are remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def cache_file() -> Path:
    """Where measurements are remembered.

    Example:
        >>> cache_file().name
        'latency.json'
    """
    default = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparsefx"
    )
    return Path(os.environ.get("SPARSEFX_CACHE", default)) / "latency.json"


def read(path: Path) -> dict[str, Any]:
    """What was remembered; nothing where the file cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write(path: Path, known: Mapping[str, Any]) -> None:
    """Remembers; a folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    except OSError:
        pass  # a folder that cannot be written: measured anew the next time
