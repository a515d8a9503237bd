"""Which line of a model's own code an error comes from."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

_OURS = Path(__file__).parents[1]
_DATA = "GuardOnDataDependentSymNode"


def place_of(error: BaseException) -> str:
    """The innermost line outside of torch and this package: file, number, code.

    Example:
        >>> def half(x):
        ...     return x / 0
        >>> try:
        ...     half(1)
        ... except ZeroDivisionError as error:
        ...     place_of(error).rpartition(":")[2]
        '2 (return x / 0)'
    """
    frames = [
        (frame.f_code.co_filename, line, str(frame.f_globals.get("__name__", "")))
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    for file, line, module in reversed(frames):
        if module.partition(".")[0] == "torch" or _OURS in Path(file).parents:
            continue
        code = linecache.getline(file, line).strip()
        return f"{Path(file).name}:{line}" + (f" ({code[:80]})" if code else "")
    return ""


def cause_of(error: BaseException) -> str:
    """An error of fake tensors in words, with the model's line where it arose.

    Example:
        >>> cause_of(ValueError("too long"))
        'ValueError: too long'
    """
    text = str(error).strip().splitlines() or [""]
    said = f"{type(error).__name__}: {text[0][:200]}"
    if type(error).__name__ == _DATA:
        said = "the values of a tensor decide what runs"
    place = place_of(error)
    return f"{said}, at {place}" if place else said
