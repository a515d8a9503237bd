"""Which weights are masked, and within what bounds: patterns over names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from sparsefx.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Selection:
    """What the patterns say about one parameter.

    Attributes:
        selected: it is to be masked.
        reason: the pattern that says so; "" if none does.
        min_density: least kept fraction, in [0, 1].
        max_density: greatest kept fraction, in [0, 1].
        granularity: the unit that is kept or dropped.
        round_to: so many units, or a multiple, or all are kept.
    """

    selected: bool
    reason: str = ""
    min_density: float = 0.0
    max_density: float = 1.0
    granularity: str = "unstructured"
    round_to: int = 1


def select(
    names: Iterable[tuple[str, ...]],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layers: Mapping[str, Mapping[str, float | str]] | None = None,
    *,
    apart: Mapping[str, str] | None = None,
    default: Selection | None = None,
) -> dict[str, Selection]:
    """Applies the patterns of a policy to the weights of a model.

    A pattern is a glob on the path of the module that owns the weight (``*`` also
    matches dots, case counts), or ``re:`` and a regular expression that must match
    all of it; the parameter's own name is accepted as well. Where several patterns
    of ``layers`` match, each setting comes from the most specific one (most
    characters that are no wildcards), among equals from the last.

    Args:
        names: of each weight its parameter name and the path of the owning module,
            and all others that it has where it is tied.
        include: patterns of the modules to mask; empty means all.
        exclude: patterns of the modules that stay dense; they win over ``include``.
        layers: settings by pattern: ``min_density``, ``max_density``, ``density``
            (both bounds at once), ``granularity``, ``round_to``.
        apart: by parameter name, why a weight stays dense unless ``include`` names it.
        default: what holds where no pattern of ``layers`` says otherwise.

    Returns:
        A `Selection` by parameter name, in the order of ``names``.

    Raises:
        PolicyError: a pattern matches nothing, nothing is left to mask, or the
            settings of a weight contradict each other.

    Example:
        >>> names = [("stem.weight", "stem"), ("head.weight", "head")]
        >>> chosen = select(names, exclude=("stem",), layers={"h*": {"density": 0.5}})
        >>> chosen["stem.weight"].reason
        "excluded by 'stem'"
        >>> chosen["head.weight"].min_density, chosen["head.weight"].max_density
        (0.5, 0.5)
    """
    pairs = list(names)
    settings = dict(layers or {})
    for field, patterns in (
        ("include", include),
        ("exclude", exclude),
        ("layers", settings),
    ):
        for pattern in patterns:
            _require_match(field, pattern, pairs)
    ranked = sorted(settings, key=_specificity)  # Stable: later ones win among equals.
    defaults: dict[str, float | str] = {
        name: getattr(default or Selection(True), name)
        for name in ("min_density", "max_density", "granularity", "round_to")
    }
    chosen = {}
    for known in pairs:
        selected, reason = named_by(known, include, exclude)
        if selected and not include and (apart or {}).get(known[0]):
            selected, reason = False, (apart or {})[known[0]]
        matching = [p for p in ranked if selected and _matches(p, known)]
        chosen[known[0]] = (
            _settled(known[0], reason, defaults, {p: settings[p] for p in matching})
            if selected
            else Selection(False, reason)
        )
    _check_used(chosen, pairs, settings)
    return chosen


def most_specific(
    field: str, names: Sequence[tuple[str, ...]], values: Mapping[str, float]
) -> dict[str, float]:
    """The value of each weight from the most specific pattern that matches it.

    Args:
        field: what messages call the patterns.
        names: of each weight, as for `select`.
        values: by pattern; among equally specific ones the last counts.

    Raises:
        PolicyError: a pattern matches nothing.

    Example:
        >>> names = [("a.weight", "a"), ("b.weight", "b")]
        >>> most_specific("costs", names, {"a": 3.0, "*": 1.0})
        {'a.weight': 3.0, 'b.weight': 1.0}
    """
    for pattern in values:
        _require_match(field, pattern, names)
    ranked = sorted(values, key=_specificity)
    found = {}
    for known in names:
        for pattern in ranked:
            if _matches(pattern, known):
                found[known[0]] = values[pattern]
    return found


def _matches(pattern: str, names: Sequence[str]) -> bool:
    """Whether a pattern matches one of the names of a weight."""
    if pattern.startswith("re:"):
        return any(map(_regex(pattern).fullmatch, names))
    return any(fnmatchcase(name, pattern) for name in names)


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix("re:"))
    except (re.error, OverflowError, RecursionError) as error:
        raise PolicyError(
            f"pattern {pattern!r} is not a regular expression: {error}; mend it, or "
            "drop 're:' to use a glob"
        ) from None


def _specificity(pattern: str) -> int:
    if pattern.startswith("re:"):
        return sum(char.isalnum() or char == "_" for char in pattern[3:])
    return len(re.sub(r"\[[^\]]*\]|[*?]", "", pattern))


def named_by(
    names: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> tuple[bool, str]:
    """Whether a weight is to be masked, and by which pattern."""
    for pattern in exclude:
        if _matches(pattern, names):
            return False, f"excluded by {pattern!r}"
    for pattern in include:
        if _matches(pattern, names):
            return True, f"included by {pattern!r}"
    if include:
        return False, f"not matched by include {', '.join(map(repr, include))}"
    return True, ""


def _require_match(field: str, pattern: str, pairs: Sequence[tuple[str, ...]]) -> None:
    if any(_matches(pattern, names) for names in pairs):
        return
    if not pattern.startswith("re:"):
        inside = f"{pattern}.*"
        if any(_matches(inside, names) for names in pairs):
            raise PolicyError(
                f"{field} pattern {pattern!r} matches no layer, but has layers inside; "
                f"did you mean {inside!r}?"
            )
    known = list(dict.fromkeys(module or name for name, module, *_ in pairs))
    close = get_close_matches(pattern.removeprefix("re:"), known, 3)
    nearest = f"did you mean {', '.join(map(repr, close))}? " if close else ""
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    raise PolicyError(
        f"{field} pattern {pattern!r} matches no layer; {nearest}available: "
        f"{', '.join(known[:8]) or 'none'}{more}"
    )


def _settled(
    name: str,
    reason: str,
    defaults: Mapping[str, float | str],
    matching: Mapping[str, Mapping[str, float | str]],
) -> Selection:
    found = dict(defaults)
    for options in matching.values():
        found.update(options)
    low, high = float(found["min_density"]), float(found["max_density"])
    asked = f" (patterns {', '.join(map(repr, matching))})" if matching else ""
    if low > high:
        raise PolicyError(
            f"{name}: min_density {low:g} is above max_density {high:g}{asked}; lower "
            "min_density or raise max_density"
        )
    if "density" in found:
        density = float(found["density"])
        if not low <= density <= high:
            raise PolicyError(
                f"{name}: density {density:g} is outside min_density {low:g} and "
                f"max_density {high:g}{asked}; change one of them"
            )
        low = high = density
    steps = int(found["round_to"])
    return Selection(True, reason, low, high, str(found["granularity"]), steps)


def _check_used(
    chosen: Mapping[str, Selection],
    pairs: Sequence[tuple[str, ...]],
    settings: Mapping[str, Mapping[str, float | str]],
) -> None:
    if pairs and not any(choice.selected for choice in chosen.values()):
        name, choice = next(iter(chosen.items()))
        raise PolicyError(
            "include and exclude leave no weight to mask; shorten exclude or widen "
            f"include ({name}: {choice.reason})"
        )
    for pattern in settings:
        if not any(
            chosen[names[0]].selected and _matches(pattern, names) for names in pairs
        ):
            warnings.warn(
                f"layers pattern {pattern!r} has no effect: every layer it matches "
                "stays dense; remove it, or include the layer",
                UserWarning,
                stacklevel=3,
            )
