"""Checks of single settings: each names the field, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Never, TypeGuard

from sparsefx.errors import PolicyError
from sparsefx.settings.granularity import Granularity

_TAKEN = ("macs", "flops", "params", "bytes", "latency_ms")
LAYER_KEYS = ("min_density", "max_density", "density", "granularity", "round_to")


def refuse(field: str, value: object, allowed: str) -> Never:
    """Raises the error of a setting.

    Raises:
        PolicyError: always.

    Example:
        >>> refuse("beta", -1, "a number above 0")
        Traceback (most recent call last):
        ...
        sparsefx.errors.PolicyError: beta is -1; give a number above 0
    """
    hint = ""
    if isinstance(value, str) and _reads_as_number(value):
        # YAML 1.1 takes 1e-3 for text.
        hint = " (not as text; YAML reads a number only with its dot, 1.0e-3)"
    raise PolicyError(f"{field} is {value!r}; give {allowed}{hint}")


def unknown(kind: str, name: object, known: Collection[str]) -> Never:
    """Raises the error of a name that is not known, with the nearest that is.

    Raises:
        PolicyError: always.

    Example:
        >>> unknown("policy", "unifrom", ("erk", "uniform"))
        Traceback (most recent call last):
        ...
        sparsefx.errors.PolicyError: policy 'unifrom' is not known; did you mean \
'uniform'? known: erk, uniform
    """
    close = get_close_matches(str(name), known, 1)
    nearest = f"did you mean {close[0]!r}? " if close else ""
    raise PolicyError(
        f"{kind} {name!r} is not known; {nearest}known: {', '.join(known)}"
    )


def choice(field: str, value: object, allowed: Collection[str]) -> None:
    """Refuses a value that is not one of the allowed words.

    Example:
        >>> choice("normalize", "layer", ("layer", "none"))
    """
    if not isinstance(value, str):
        refuse(field, value, f"one of {', '.join(allowed)}")
    if value not in allowed:
        unknown(field, value, allowed)


def flag(field: str, value: object) -> bool:
    """The value, which must be true or false."""
    if not isinstance(value, bool):
        refuse(field, value, "true or false")
    return value


def text(field: str, value: object) -> str:
    """A string that is not empty.

    Example:
        >>> text("name", "mine")
        'mine'
    """
    if not isinstance(value, str) or not value:
        refuse(field, value, "a string that is not empty")
    return value


def positive(field: str, value: object, most: float = math.inf) -> float:
    """A finite number above 0, at most ``most``.

    Example:
        >>> positive("beta", 20)
        20.0
    """
    if not (_is_number(value) and 0 < value <= most and math.isfinite(value)):
        refuse(
            field,
            value,
            "a number above 0" if most == math.inf else f"a number in (0, {most:g}]",
        )
    return float(value)


def density(field: str, value: object) -> float:
    """A kept fraction, in [0, 1].

    Example:
        >>> density("min_density", 0)
        0.0
    """
    if not (_is_number(value) and 0 <= value <= 1):
        refuse(field, value, "a kept fraction in [0, 1]")
    return float(value)


def count(field: str, value: object, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Example:
        >>> count("update_every", 100)
        100
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(field, value, f"a whole number of at least {least}")
    return value


def position(field: str, value: object) -> int | float:
    """A step (int of at least 0) or a fraction of total_steps (float in [0, 1]).

    Example:
        >>> position("end_step", 0.2), position("end_step", 200)
        (0.2, 200)
    """
    whole = isinstance(value, int)
    if not (_is_number(value) and value >= 0 and (whole or value <= 1)):
        refuse(
            field,
            value,
            "a step (int of at least 0) or a fraction of total_steps (float in [0, 1])",
        )
    return value


def budget(field: str, value: object) -> float | str | dict[str, float | str]:
    """A number, a string, or a mapping from cost names to either; not parsed here.

    Example:
        >>> budget("budget", {"macs": "25%"})
        {'macs': '25%'}
    """
    if _is_number(value) or (isinstance(value, str) and value):
        return value
    if not isinstance(value, Mapping) or not value:
        refuse(
            field,
            value,
            "a fraction (0.1), a string ('25%', '1.2 GMACs') or a mapping from cost "
            "names to either",
        )
    for cost, limit in value.items():
        text(f"the cost name in {field}", cost)
        if not (_is_number(limit) or (isinstance(limit, str) and limit)):
            refuse(f"{field}[{cost!r}]", limit, "a number or a string such as '25%'")
    return dict(value)


def patterns(field: str, value: object) -> tuple[str, ...]:
    """Patterns of module names; one string counts as one pattern.

    Example:
        >>> patterns("exclude", "head"), patterns("exclude", ["stem.*", "re:fc[12]"])
        (('head',), ('stem.*', 're:fc[12]'))
    """
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        refuse(field, value, "a list of patterns of module names")
    return tuple(text(f"a pattern in {field}", pattern) for pattern in value)


def costs(field: str, value: object) -> dict[str, dict[str, float]]:
    """Costs of the user's own: numbers of at least 0 by pattern, by name.

    Example:
        >>> costs("costs", {"energy": {"*": 1}})
        {'energy': {'*': 1.0}}
    """
    if not isinstance(value, Mapping):
        refuse(field, value, "a mapping from names to costs by pattern")
    found: dict[str, dict[str, float]] = {}
    for name, patterns in value.items():
        if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
            refuse(
                f"a name in {field}",
                name,
                f"a word that is none of {', '.join(_TAKEN)}",
            )
        if not isinstance(patterns, Mapping) or not patterns:
            refuse(f"{field}[{name!r}]", patterns, "a mapping from patterns to numbers")
        found[name] = {}
        for pattern, number in patterns.items():
            place = f"{field}[{name!r}][{pattern!r}]"
            if not (_is_number(number) and 0 <= number < math.inf):
                refuse(place, number, "the cost of a kept weight, a number from 0 on")
            found[name][text(f"a pattern in {field}[{name!r}]", pattern)] = float(
                number
            )
    return found


def densities(field: str, value: object) -> dict[str, float]:
    """Kept fractions by pattern.

    Example:
        >>> densities("densities", {"*": 1})
        {'*': 1.0}
    """
    if not isinstance(value, Mapping):
        refuse(field, value, "a mapping from patterns to kept fractions")
    return {
        text(f"a pattern in {field}", pattern): density(f"{field}[{pattern!r}]", number)
        for pattern, number in value.items()
    }


def sizes(field: str, value: object) -> dict[str, int]:
    """Numbers for the symbols of costs.

    Example:
        >>> sizes("sizes", {"batch": 32})
        {'batch': 32}
    """
    if not isinstance(value, Mapping):
        refuse(field, value, "a mapping from names of sizes to whole numbers")
    return {
        text(f"a name in {field}", name): count(f"{field}[{name!r}]", number)
        for name, number in value.items()
    }


def layers(field: str, value: object) -> dict[str, dict[str, float | str]]:
    """Settings by pattern: densities, granularity, round_to.

    Example:
        >>> layers("layers", {"head": {"min_density": 1}})
        {'head': {'min_density': 1.0}}
    """
    if not isinstance(value, Mapping):
        refuse(field, value, "a mapping from patterns to settings")
    return {
        text(f"a pattern in {field}", pattern): _layer(f"{field}[{pattern!r}]", options)
        for pattern, options in value.items()
    }


def _layer(field: str, options: object) -> dict[str, float | str]:
    if not isinstance(options, Mapping):
        refuse(field, options, f"a mapping with the keys {', '.join(LAYER_KEYS)}")
    checked: dict[str, float | str] = {}
    for key, value in options.items():
        if key not in LAYER_KEYS:
            unknown(f"key of {field}", key, LAYER_KEYS)
        if key == "granularity":
            checked[key] = str(Granularity.parse(text(f"{field}[{key!r}]", value)))
        elif key == "round_to":
            checked[key] = count(f"{field}[{key!r}]", value)
        else:
            checked[key] = density(f"{field}[{key!r}]", value)
    return checked


def _reads_as_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
