"""How a policy chooses tokens: where, how many, and how the choice hardens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from sparsefx.settings.fields import rule_of
from sparsefx.settings.kinds import TEXT, Fraction, Natural
from sparsefx.settings.rules import Rule, is_number, number, refuse, several

Place = int | float | str


def _place(field: str, value: object) -> Place:
    if isinstance(value, str) and value:
        return value
    whole = isinstance(value, int)
    if not (is_number(value) and value >= 0 and (whole or value < 1)):
        refuse(
            field,
            value,
            "a block's number from 0 on, a fraction of the depth in [0, 1), or a path "
            "such as 'blocks.3'",
        )
    return value


def _amount(field: str, value: object) -> int | float:
    whole = isinstance(value, int)
    if not (is_number(value) and value > 0 and (whole or value <= 1)):
        refuse(field, value, "a fraction in (0, 1] or a number of tokens from 1 on")
    return value


_PLACE = {"anyOf": [TEXT.schema, {"type": "number", "minimum": 0}]}
_PLACES = several("a place, or a list", Rule(_place, _PLACE), single=Place)
_AMOUNT = {"type": "number", "exclusiveMinimum": 0}
_AMOUNTS = several("an amount, or a list", Rule(_amount, _AMOUNT), single=Place)
_HEAT = number("a number above 0", 0, math.inf, above=True)
_HEATS = several("the first and the last temperature", _HEAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """The entries of a policy's ``tokens``.

    Example:
        >>> parse_tokens({"before": 3, "keep": 0.7}).keep
        (0.7,)
    """

    before: Annotated[tuple[Place, ...], _PLACES] = (0,)
    """Where tokens are dropped: in front of a block, by its number, by a fraction of
    the depth (0.25 is the third of twelve), or by its path; each place drops some."""
    inside: bool = False
    """Tokens are dropped inside the module alone, an attention, and come back behind
    it: the residual path keeps them. Places are then paths, or patterns of them such as
    'blocks.*.attn'."""
    keep: Annotated[tuple[int | float, ...], _AMOUNTS] = ()
    """What each place keeps of the tokens behind the prefix, fractions in (0, 1] or
    numbers; one for all places, or one each. Without it the budget decides."""
    min_keep: Fraction = 0.1
    """Least fraction that the budget may choose."""
    max_keep: Fraction = 1.0
    """Greatest fraction."""
    prefix: Natural = 1
    """First tokens that always stay: class token, distillation, registers."""
    tau: Annotated[tuple[float, float], _HEATS] = (10.0, 0.1)
    """Temperature at step 0 and at the last step, linear between."""


def parse_tokens(value: object) -> TokenOptions | None:
    """Reads a policy's ``tokens``; None where it is empty: no tokens are dropped.

    Raises:
        PolicyError: an entry is not known, or has a value that is not allowed.
    """
    given = _ENTRIES.read("tokens", value)
    if not given:
        return None
    found = TokenOptions(**given)
    if found.inside and not all(isinstance(place, str) for place in found.before):
        refuse(
            "tokens['before']",
            list(found.before),
            "paths or patterns of attentions with inside, such as 'blocks.*.attn'",
        )
    if not found.before or len(found.keep) not in (0, 1, len(found.before)):
        refuse(
            "tokens['keep']",
            list(found.keep),
            f"one amount, or one for each of the {len(found.before)} places in before",
        )
    if found.min_keep > found.max_keep:
        refuse(
            "tokens['min_keep']", found.min_keep, f"at most max_keep {found.max_keep:g}"
        )
    if len(found.tau) != 2:
        refuse("tokens['tau']", list(found.tau), "the first and the last temperature")
    return found


def _plain(field: str, value: object) -> dict[str, Any]:
    """With values that YAML holds."""
    found = parse_tokens(value)
    if found is None or not isinstance(value, Mapping):
        return {}
    entries = asdict(found)
    return {
        name: list(entries[name]) if isinstance(entries[name], tuple) else entries[name]
        for name in value
    }


_ENTRIES = rule_of(TokenOptions, "entry of {}")
TOKENS = Rule(_plain, _ENTRIES.schema)
