"""What a user may call a budget, read into a `Budget`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Real

from sparsefx.errors import BudgetError
from sparsefx.settings.cost_expression import is_expression, parse_expression
from sparsefx.settings.rules import shown

COSTS = ("macs", "params", "bytes")
_NAMES = (*COSTS, "flops", "latency_ms")
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40}
# In the order they are tried as endings; what is before them is the prefix.
_WORDS = {
    "parameters": "params",
    "parameter": "params",
    "params": "params",
    "param": "params",
    "flops": "flops",
    "bytes": "bytes",
    "macs": "macs",
    "flop": "flops",
    "byte": "bytes",
    "mac": "macs",
    "b": "bytes",
}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf))(.*)")
_EXAMPLES = {
    "macs": "1.2 GMACs",
    "flops": "300 MFLOPs",
    "params": "12000 params",
    "bytes": "5 MB",
    "latency_ms": "3 ms",
}
_FORMS = (
    'a fraction of the dense cost in (0, 1], a percentage such as "25%", or an '
    'amount with its unit such as "1.2 GMACs", "300 MFLOPs", "5 MB", "5 MiB", '
    '"3 ms" or "12000 params"'
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of one cost may be kept.

    Attributes:
        cost: ``"macs"``, ``"params"``, ``"bytes"``, a name of the user's own, or an
            expression in these.
        amount: a fraction of the dense cost, in (0, 1], or an amount in cost units.
        absolute: whether ``amount`` is in cost units.

    Example:
        >>> Budget("macs", 0.25, absolute=False).limit(2000)
        500.0
    """

    cost: str
    amount: float
    absolute: bool = False

    def limit(self, dense: float) -> float:
        """The allowed cost, in cost units.

        Args:
            dense: the cost if nothing is dropped, in the same units.
        """
        return self.amount if self.absolute else self.amount * dense


def parse_budget(
    budget: object, default_cost: str = "macs", own: Collection[str] = ()
) -> tuple[Budget, ...]:
    """Reads a budget as a user writes it.

    FLOPs are read as MACs: ``flops = 2 * macs``, so an amount is halved and a fraction
    is the same. Units are not case-sensitive: k, M, G, T are 1e3 to 1e12, and Ki, Mi,
    Gi, Ti (of bytes) are 2**10 to 2**40.

    Args:
        budget: a fraction in (0, 1]; ``"25%"``; ``"0.1"``; an amount with a unit,
            which then says what cost it is of; or a mapping from a cost's name to
            one of these. A name may also be an expression of costs, such as
            ``"0.7*macs + 0.3*params"`` (`sparsefx.settings.cost_expression`); a
            fraction then.
        default_cost: the cost that a fraction without a name is of.
        own: names of costs of the user's own; their amounts are written with the
            name for a unit, ``"12 k energy"``.

    Returns:
        The budgets, in the order given; all of them hold.

    Raises:
        BudgetError: the budget is not one of the above, is not positive, is a
            fraction above 1, names an unknown cost, has another cost's unit, or limits
            one cost twice.

    Example:
        >>> parse_budget("25%")
        (Budget(cost='macs', amount=0.25, absolute=False),)
        >>> parse_budget({"flops": "300 MFLOPs"})
        (Budget(cost='macs', amount=150000000.0, absolute=True),)
        >>> parse_budget("5 MiB")
        (Budget(cost='bytes', amount=5242880.0, absolute=True),)
    """
    if not isinstance(budget, Mapping):
        return (_parse_one(budget, default_cost, False, own),)
    if not budget:
        raise BudgetError('budget {} is empty; give one, such as {"macs": 0.1}')
    found: dict[str, Budget] = {}
    for cost, value in budget.items():
        one = _parse_one(value, cost, True, own)
        if one.cost in found:
            raise BudgetError(
                f"budget {shown(dict(budget))} limits {one.cost} twice (flops are "
                "macs); keep one"
            )
        found[one.cost] = one
    return tuple(found.values())


def _parse_one(
    value: object, cost: object, named: bool, own: Collection[str]
) -> Budget:
    given = shown({cost: value} if named else value)
    names = (*_NAMES, *own)
    mixed = isinstance(cost, str) and is_expression(cost)
    if isinstance(cost, str) and mixed:
        parse_expression(cost, (*COSTS, *own))
    elif not isinstance(cost, str) or cost not in names:
        word = cost.lower() if isinstance(cost, str) else ""
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join((*_NAMES, *own))
        raise BudgetError(
            f"budget cost {shown(cost)} is not known; known: {known}{hint}"
        )
    if isinstance(value, str):
        if mixed or cost in own:
            return _parse_own(value, cost, given, mixed)
        return _parse_text(value, cost, named, given)
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            return _fraction(float(value), cost, given)
        except OverflowError:
            return _fraction(math.inf, cost, given)
    raise BudgetError(f"budget {given} is not understood; give {_FORMS}")


def _parse_text(text: str, cost: str, named: bool, given: str) -> Budget:
    match = _NUMBER.fullmatch("".join(text.lower().split()))
    if match is None:
        raise BudgetError(f"budget {given} is not understood; give {_FORMS}")
    number, unit = float(match[1]), match[2]
    if not unit:
        return _fraction(number, cost, given)
    if unit == "%":
        return _fraction(number / 100, cost, given)
    scale, of = _read_unit(unit, given)
    if named and {of, cost} - {"macs", "flops"} and of != cost:
        raise BudgetError(
            f"budget {given} limits {cost} but its unit is of {of}; write "
            f"{{{of!r}: {text!r}}}, or an amount of {cost}"
        )
    if not 0 < number * scale < math.inf:
        raise BudgetError(
            f"budget {given} is not positive and finite; give an amount such as "
            f'"{_EXAMPLES[of]}"'
        )
    if of == "flops":
        return Budget("macs", number * scale / 2, absolute=True)
    return Budget(of, number * scale, absolute=True)


def _parse_own(text: str, cost: str, given: str, mixed: bool) -> Budget:
    """An amount of a cost that has no unit but its name, or none at all."""
    match = _NUMBER.fullmatch("".join(text.lower().split()))
    number, unit = (float(match[1]), match[2]) if match else (math.nan, "")
    if match is not None and unit in ("", "%"):
        return _fraction(number / 100 if unit else number, cost, given)
    if mixed:
        raise BudgetError(
            f"budget {given} is an amount of a mixture of costs, which has no unit; "
            "give a fraction of the dense cost in (0, 1], for example 0.1"
        )
    prefix = unit.removesuffix(cost.lower())
    if (
        prefix == unit
        or prefix not in _SCALES
        or not (0 < number * _SCALES[prefix] < math.inf)
    ):
        raise BudgetError(
            f"budget {given} is not understood; give a fraction in (0, 1], a "
            f'percentage, or an amount with the cost\'s name, such as "12 k {cost}"'
        )
    return Budget(cost, number * _SCALES[prefix], absolute=True)


def _read_unit(unit: str, given: str) -> tuple[float, str]:
    if unit in _TIMES:
        return _TIMES[unit], "latency_ms"
    for word, cost in _WORDS.items():
        prefix = unit.removesuffix(word)
        if prefix == unit:
            continue
        scales = {**_SCALES, **_BINARY} if cost == "bytes" else _SCALES
        if prefix in scales:
            return scales[prefix], cost
    raise BudgetError(
        f"budget {given} has the unknown unit {unit!r}; known: MACs, FLOPs, params "
        "and B after k, M, G or T, KiB, MiB, GiB, TiB, and s, ms, us"
    )


def _fraction(number: float, cost: str, given: str) -> Budget:
    if math.isnan(number):
        raise BudgetError(f"budget {given} is not a number; give {_FORMS}")
    if number <= 0:
        raise BudgetError(
            f"budget {given} is not positive; give a fraction of the dense cost in "
            "(0, 1], for example 0.1"
        )
    if number > 1:
        share = f' ("{number:g}%" or {number / 100:g} for {number:g} percent)'
        raise BudgetError(
            f"budget {given} is above 1; a number is a fraction of the dense cost, "
            f"in (0, 1]{share * (2 <= number <= 100)}; for an amount write a string "
            f'with its unit, such as "{_EXAMPLES.get(cost, "12 k " + cost)}"'
        )
    return Budget("macs" if cost == "flops" else cost, number)
