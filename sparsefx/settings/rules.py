"""What a setting may be: a rule checks, words a refusal, and is a JSON schema."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Never, TypeGuard

from sparsefx.errors import PolicyError

# What other libraries call settings of ours.
_SHARES = (
    "sparsity", "target_sparsity", "sparsity_level", "amount", "ratio", "pruning_ratio",
)  # fmt: skip
_ELSEWHERE = {
    **dict.fromkeys(_SHARES, ("budget", "density")),
    **dict.fromkeys(("steps", "max_steps", "epochs", "num_epochs"), ("total_steps",)),
    **dict.fromkeys(("ignore", "ignored_layers", "skip"), ("exclude",)),
    **dict.fromkeys(("targets", "layers_to_prune"), ("include",)),
    **dict.fromkeys(("pattern", "block_size", "mask_type"), ("granularity",)),
    "update_frequency": ("update_every",),
}


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What a setting may be.

    Attributes:
        read: takes the field's name and a value, answers the value as it is kept, and
            raises `PolicyError` where it is not allowed.
        schema: the same as a JSON schema, as far as that goes.
    """

    read: Callable[[str, Any], Any]
    schema: Mapping[str, Any]


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
    raise PolicyError(f"{field} is {shown(value)}; give {allowed}{hint}")


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
    words = [*_ELSEWHERE.get(name, ()), name] if isinstance(name, str) else []
    close = [near for word in words for near in get_close_matches(word, known, 1)]
    nearest = f"did you mean {close[0]!r}? " if close else ""
    kept = next((word for word in close if word in ("budget", "density")), None)
    if kept and name in _SHARES:
        nearest = f"{kept} is what is kept: {kept}=0.1 where {name} is 0.9; "
    raise PolicyError(
        f"{kind} {shown(name)} is not known; {nearest}known: {', '.join(known)}"
    )


def shown(value: object) -> str:
    """What messages show of a value that may be of any type and size.

    Example:
        >>> shown("a" * 200)[-9:], shown(10**5000)
        ('aaaaaa...', 'a number of 16610 bits')
    """
    if isinstance(value, int) and abs(value) > sys.maxsize**4:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # of somebody else's type
        return f"a {type(value).__name__}"
    return text if len(text) <= 160 else f"{text[:157]}..."


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is an int or a float, and not a flag."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(allowed: str, low: float, high: float, *, above: bool = False) -> Rule:
    """A finite number from ``low``, or ``above`` it, to ``high``.

    Example:
        >>> number("a kept fraction in [0, 1]", 0, 1).read("density", 1)
        1.0
    """

    def read(field: str, value: object) -> float:
        inside = is_number(value) and low <= value <= min(high, sys.float_info.max)
        if not inside or (above and value == low):
            refuse(field, value, allowed)
        return float(value)  # type: ignore[arg-type]

    schema = {"type": "number", "exclusiveMinimum" if above else "minimum": low}
    return Rule(read, schema if high == math.inf else {**schema, "maximum": high})


def whole(least: int) -> Rule:
    """A whole number of at least ``least`` that fits 63 bits."""

    def read(field: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            refuse(field, value, f"a whole number of at least {least}")
        if value > sys.maxsize:
            refuse(field, value, f"a whole number of at most {sys.maxsize}")
        return value

    return Rule(read, {"type": "integer", "minimum": least, "maximum": sys.maxsize})


def choice(
    known: Collection[str], otherwise: Callable[[object], bool] | None = None
) -> Rule:
    """One of a few words; or, in Python only, what ``otherwise`` allows.

    Example:
        >>> choice(("layer", "none")).read("normalize", "layer")
        'layer'
    """

    def read(field: str, value: object) -> object:
        if otherwise is None or not otherwise(value):
            if not isinstance(value, str):
                refuse(field, value, f"one of {', '.join(known)}")
            if value not in known:
                unknown(field, value, known)
        return value

    return Rule(read, {"enum": list(known)})


def optional(rule: Rule) -> Rule:
    """What a rule allows, or None."""
    return Rule(
        lambda field, value: None if value is None else rule.read(field, value),
        {"anyOf": [rule.schema, {"type": "null"}]},
    )


def several(
    allowed: str, one: Rule, name: str = "{}", single: type | UnionType = str
) -> Rule:
    """A list of values that each keep a rule.

    Args:
        allowed: what to give instead of something else, for messages.
        one: the rule of each.
        name: what messages call one of them; the field's name is put in.
        single: the type of a value that stands for a list of itself.
    """

    def read(field: str, value: object) -> tuple[Any, ...]:
        if isinstance(value, single):
            value = (value,)
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            refuse(field, value, allowed)
        try:
            values = list(value)
        except Exception:  # of somebody else's iterator
            refuse(field, value, allowed)
        return tuple(one.read(name.format(field), entry) for entry in values)

    return Rule(read, {"anyOf": [one.schema, {"type": "array", "items": one.schema}]})


def mapping(allowed: str, name: str, key: Rule, value: Rule, least: int = 0) -> Rule:
    """A mapping whose keys and values keep rules.

    Args:
        allowed: what to give instead, for messages.
        name: what messages call a key.
        key: the rule of keys.
        value: the rule of values.
        least: entries that there must be.
    """

    def read(field: str, given: object) -> dict[str, Any]:
        if not isinstance(given, Mapping) or len(given) < least:
            refuse(field, given, allowed)
        return {
            key.read(f"{name} in {field}", k): value.read(f"{field}[{shown(k)}]", v)
            for k, v in given.items()
        }

    schema = {"additionalProperties": value.schema, "minProperties": least}
    return Rule(read, {"type": "object", **schema})


def entries(rules: Mapping[str, Rule], kind: str = "key of {}") -> Rule:
    """A mapping of some known keys, each with a rule of its own.

    Args:
        rules: by key.
        kind: what messages call a key; the field's name is put in.
    """

    def read(field: str, given: object) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            refuse(field, given, f"a mapping with the keys {', '.join(rules)}")
        for name in given:
            if not isinstance(name, str) or name not in rules:
                unknown(kind.format(field), name, tuple(rules))
        return {
            name: rules[name].read(f"{field}[{name!r}]" if field else name, value)
            for name, value in given.items()
        }

    properties = {name: rule.schema for name, rule in rules.items()}
    schema = {"properties": properties, "additionalProperties": False}
    return Rule(read, {"type": "object", **schema})


def _reads_as_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
