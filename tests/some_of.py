"""Some of many cases in a quick run; `make test-slow` tries the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def some_of(cases: Iterable[Any], one_in: int) -> list[Any]:
    """The first of every ``one_in`` cases as it is, the others marked slow."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if i % one_in == 0 else pytest.mark.slow,
        )
        for i, case in enumerate(cases)
    ]
