"""The fields of a dataclass of settings: checked, described, written as a schema.

The rule of a field is in its type (`sparsefx.settings.kinds`; flags, strings,
`Literal`s and None need none), its meaning in the string behind it:

    beta: Positive = 10.0
    \"\"\"Final inverse temperature of the soft masks.\"\"\"
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sparsefx.settings.kinds import FLAG, TEXT
from sparsefx.settings.rules import Rule, choice, entries, optional


@dataclass(frozen=True, slots=True)
class Unless:
    """A mark of a field: it has no effect while another one has some value."""

    field: str
    value: object


@dataclass(frozen=True, slots=True)
class Setting:
    """One field.

    Attributes:
        name: of the field.
        meaning: what it decides.
        rule: what it may be.
        default: what it is if nobody sets it.
        unless: when it has no effect.
    """

    name: str
    meaning: str
    rule: Rule
    default: Any
    unless: tuple[Unless, ...]


@functools.cache
def settings_of(owner: Any) -> Mapping[str, Setting]:
    """The fields of a dataclass by name."""
    hints, said = get_type_hints(owner, include_extras=True), _meanings(owner)
    found = {}
    for field in fields(owner):
        rule, marks = _rule(hints[field.name])
        made = field.default_factory
        default = field.default if made is MISSING else made()
        unless = tuple(mark for mark in marks if isinstance(mark, Unless))
        meaning = said.get(field.name, "")
        found[field.name] = Setting(field.name, meaning, rule, default, unless)
    return found


@functools.cache
def rule_of(owner: Any, kind: str = "policy field") -> Rule:
    """A mapping of the fields of a dataclass, as `entries`, meanings in its schema."""
    rules = {}
    for name, setting in settings_of(owner).items():
        default = setting.default
        default = list(default) if isinstance(default, tuple) else default
        more = {"description": setting.meaning, "default": default}
        rules[name] = replace(setting.rule, schema={**setting.rule.schema, **more})
    return entries(rules, kind)


def keep_rules(instance: Any) -> None:
    """Checks a frozen dataclass that has just been made; keeps values as rules do.

    Raises:
        PolicyError: a value is not allowed.
    """
    owner: Any = type(instance)
    for name, setting in settings_of(owner).items():
        value = setting.rule.read(name, getattr(instance, name))
        object.__setattr__(instance, name, value)


def without_effect(
    known: Mapping[str, Setting], values: Mapping[str, Any]
) -> list[str]:
    """A message for each field that is set and has no effect, as `Unless` says."""
    return [
        f"{name} {plain(values[name])} has no effect with {mark.field} "
        f"{mark.value!r}; choose "
        + ", ".join(w for w in known[mark.field].rule.schema["enum"] if w != mark.value)
        for name, setting in known.items()
        for mark in setting.unless
        if values[name] != setting.default and values[mark.field] == mark.value
    ]


def attributes_of(owner: Any) -> str:
    """The fields as a section of a docstring."""
    rows = [f"        {n}: {s.meaning}" for n, s in settings_of(owner).items()]
    return "\n".join(["\n    Attributes:", *rows, "    "])


def plain(value: object) -> str:
    """What messages show of a value that is allowed.

    Example:
        >>> plain(2.0), plain("hold")
        ('2', 'hold')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rule(hint: Any) -> tuple[Rule, tuple[Any, ...]]:
    """The rule in a type, and other marks."""
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        rules = [mark for mark in marks if isinstance(mark, Rule)]
        return (rules[-1] if rules else _rule(base)[0]), tuple(marks)
    if get_origin(hint) in (Union, types.UnionType):
        (one,) = (part for part in get_args(hint) if part is not type(None))
        return optional(_rule(one)[0]), ()
    if get_origin(hint) is Literal:
        return choice(get_args(hint)), ()
    return {bool: FLAG, str: TEXT}[hint], ()


def _meanings(owner: type[Any]) -> dict[str, str]:
    """The strings behind a class's fields; none where the source is missing."""
    try:
        (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(owner))).body
    except (OSError, SyntaxError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    pairs = zip(tree.body, tree.body[1:], strict=False)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }
