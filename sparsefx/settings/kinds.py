"""The kinds of settings there are: types with their rules."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from sparsefx.settings.granularity import Granularity
from sparsefx.settings.rules import (
    Rule,
    entries,
    is_number,
    mapping,
    number,
    refuse,
    several,
    whole,
)

_TAKEN = ("macs", "flops", "params", "bytes", "latency_ms")


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        refuse(field, value, "true or false")
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        refuse(field, value, "a string that is not empty")
    return value


def _granularity(field: str, value: object) -> str:
    if not isinstance(value, str):
        kinds = '"unstructured", "block:4x4", "2:4", "channel" or "kernel"'
        refuse(field, value, f"a word such as {kinds}")
    return str(Granularity.parse(_text(field, value)))


def _position(field: str, value: object) -> int | float:
    whole = isinstance(value, int)
    if not (is_number(value) and value >= 0 and (whole or value <= 1)):
        places = "a step (int of at least 0) or a fraction of total_steps"
        refuse(field, value, f"{places} (float in [0, 1])")
    return value


def _interval(field: str, value: object) -> int | float:
    whole = is_number(value) and isinstance(value, int)
    if not is_number(value) or not (
        0 < value < 1 or (whole and 1 <= value <= sys.maxsize)
    ):
        steps = "a number of steps (int of at least 1) or a share of total_steps"
        refuse(field, value, f"{steps} (float in (0, 1))")
    return value


def _budget(field: str, value: object) -> float | str | dict[str, float | str]:
    """Not parsed here: that takes the cost and the names of one's own."""
    if is_number(value) or (isinstance(value, str) and value):
        return value
    if not isinstance(value, Mapping) or not value:
        refuse(
            field,
            value,
            "a fraction (0.1), a string ('25%', '1.2 GMACs') or a mapping from cost "
            "names to either",
        )
    for cost, limit in value.items():
        _text(f"the cost name in {field}", cost)
        if not (is_number(limit) or (isinstance(limit, str) and limit)):
            refuse(f"{field}[{cost!r}]", limit, "a number or a string such as '25%'")
    return dict(value)


def _own_cost(field: str, value: object) -> str:
    if not isinstance(value, str) or not value.isidentifier() or value in _TAKEN:
        refuse(field, value, f"a word that is none of {', '.join(_TAKEN)}")
    return value


def _options(field: str, value: object) -> dict[str, Any]:
    """Checked by whoever has the options."""
    if not isinstance(value, Mapping):
        refuse(field, value, "a mapping from names of options to values")
    return {_text(f"a name in {field}", name): entry for name, entry in value.items()}


def _by_pattern(allowed: str, value: Rule, least: int = 0) -> Rule:
    return mapping(
        f"a mapping from patterns to {allowed}", "a pattern", TEXT, value, least
    )


FLAG = Rule(_flag, {"type": "boolean"})
TEXT = Rule(_text, {"type": "string", "minLength": 1})
_DENSITY = number("a kept fraction in [0, 1]", 0, 1)
_COUNT = whole(1)
_GRANULARITY = Rule(_granularity, TEXT.schema)
_PATTERNS = several("a list of patterns of module names", TEXT, "a pattern in {}")
_PRICE = number("the cost of a kept weight, a number from 0 on", 0, math.inf)
_AMOUNT = {"anyOf": [{"type": "number"}, TEXT.schema]}
_AMOUNTS = {"type": "object", "minProperties": 1, "additionalProperties": _AMOUNT}
LAYER_RULES = {
    "min_density": _DENSITY,
    "max_density": _DENSITY,
    "density": _DENSITY,
    "granularity": _GRANULARITY,
    "round_to": _COUNT,
}

Share = Annotated[float, number("a share in [0, 1]", 0, 1)]
Density = Annotated[float, _DENSITY]
Fraction = Annotated[float, number("a number in (0, 1]", 0, 1, above=True)]
Positive = Annotated[float, number("a number above 0", 0, math.inf, above=True)]
Count = Annotated[int, _COUNT]
Natural = Annotated[int, whole(0)]
Position = Annotated[int | float, Rule(_position, {"type": "number", "minimum": 0})]
Interval = Annotated[
    int | float, Rule(_interval, {"type": "number", "exclusiveMinimum": 0})
]
Unit = Annotated[str, _GRANULARITY]
Amount = Annotated[
    float | str | Mapping[str, float | str],
    Rule(_budget, {"anyOf": [*_AMOUNT["anyOf"], _AMOUNTS]}),
]
Patterns = Annotated[tuple[str, ...], _PATTERNS]
Select = Annotated[
    str | Sequence[str],
    Rule(
        lambda field, value: (
            value if isinstance(value, str) and value else _PATTERNS.read(field, value)
        ),
        _PATTERNS.schema,
    ),
]
Densities = Annotated[Mapping[str, float], _by_pattern("kept fractions", _DENSITY)]
Sizes = Annotated[
    Mapping[str, int],
    mapping("a mapping from names of sizes to whole numbers", "a name", TEXT, _COUNT),
]
OwnCosts = Annotated[
    Mapping[str, Mapping[str, float]],
    mapping(
        "a mapping from names to costs by pattern",
        "a name",
        Rule(_own_cost, {}),
        _by_pattern("numbers", _PRICE, least=1),
    ),
]
Layers = Annotated[
    Mapping[str, Mapping[str, float | str]],
    _by_pattern("settings", entries(LAYER_RULES)),
]
Options = Annotated[Mapping[str, Any], Rule(_options, {"type": "object"})]
