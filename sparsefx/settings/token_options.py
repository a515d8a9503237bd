"""How a policy chooses tokens: where, how many, and how the choice hardens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from sparsefx.settings import checks as check

Place = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """The entries of a policy's ``tokens``.

    Attributes:
        before: where tokens are dropped: in front of a block, by its number, by a
            fraction of the depth (0.25 is the third of twelve), or by its path; several
            drop several times.
        keep: what each place keeps of the tokens behind the prefix, fractions in (0, 1]
            or numbers; one for all places, or one each. Without it the budget decides.
        min_keep: least fraction that the budget may choose.
        max_keep: greatest fraction.
        prefix: first tokens that always stay: class token, distillation, registers.
        tau: temperature at step 0 and at the last step, linear between.

    Example:
        >>> parse_tokens({"before": 3, "keep": 0.7}).keep
        (0.7,)
    """

    before: tuple[Place, ...] = (0,)
    keep: tuple[int | float, ...] = ()
    min_keep: float = 0.1
    max_keep: float = 1.0
    prefix: int = 1
    tau: tuple[float, float] = (10.0, 0.1)


def parse_tokens(value: object) -> TokenOptions | None:
    """Reads a policy's ``tokens``; None where it is empty: no tokens are dropped.

    Raises:
        PolicyError: an entry is not known, or has a value that is not allowed.
    """
    if not isinstance(value, Mapping):
        check.refuse("tokens", value, "a mapping such as {'before': 3, 'keep': 0.7}")
    known = tuple(f.name for f in fields(TokenOptions))
    for name in value:
        if name not in known:
            check.unknown("entry of tokens", name, known)
    if not value:
        return None
    given: dict[str, Any] = dict(value)
    if "before" in given:
        given["before"] = tuple(_place(p) for p in _several(given["before"]))
    if "keep" in given:
        given["keep"] = tuple(_amount(k) for k in _several(given["keep"]))
    for name in ("min_keep", "max_keep"):
        if name in given:
            given[name] = check.positive(f"tokens[{name!r}]", given[name], 1)
    if "prefix" in given:
        check.count("tokens['prefix']", given["prefix"], 0)
    if "tau" in given:
        given["tau"] = _temperatures(given["tau"])
    found = TokenOptions(**given)
    if not found.before or len(found.keep) not in (0, 1, len(found.before)):
        check.refuse(
            "tokens['keep']",
            list(found.keep),
            f"one amount, or one for each of the {len(found.before)} places in before",
        )
    if found.min_keep > found.max_keep:
        check.refuse(
            "tokens['min_keep']", found.min_keep, f"at most max_keep {found.max_keep:g}"
        )
    return found


def plain(value: object) -> dict[str, Any]:
    """The mapping with values that YAML holds; checked.

    Example:
        >>> plain({"before": (1, 3)})
        {'before': [1, 3]}
    """
    found = parse_tokens(value)
    assert isinstance(value, Mapping)
    if found is None:
        return {}
    entries = asdict(found)
    return {
        name: list(entries[name]) if isinstance(entries[name], tuple) else entries[name]
        for name in value
    }


def _several(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _place(value: object) -> Place:
    if isinstance(value, str) and value:
        return value
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (whole or (isinstance(value, float) and 0 <= value < 1)):
        check.refuse(
            "tokens['before']",
            value,
            "a block's number from 0 on, a fraction of the depth in [0, 1), or a path "
            "such as 'blocks.3'",
        )
    return cast(Place, value)


def _amount(value: object) -> int | float:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (whole or (isinstance(value, float) and 0 < value <= 1)):
        allowed = "a fraction in (0, 1] or a number of tokens from 1 on"
        check.refuse("tokens['keep']", value, allowed)
    return cast("int | float", value)


def _temperatures(value: object) -> tuple[float, float]:
    pair = _several(value)
    if len(pair) != 2:
        check.refuse("tokens['tau']", value, "the first and the last temperature")
    first, last = (check.positive("tokens['tau']", one) for one in pair)
    return first, last
