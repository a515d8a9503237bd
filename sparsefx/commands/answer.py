"""What a command prints: a text for people, plain values for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sparsefx.reports.text_table import text_table


class Answer(Protocol):
    """``str()`` is printed, `to_dict` with ``--json``."""

    def to_dict(self) -> Mapping[str, Any]:
        """Plain values."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """A table of texts.

    Attributes:
        header: names of the columns.
        rows: one text a column.
        more: lines below the table.

    Example:
        >>> Rows(("field", "default"), [("beta", "20")]).to_dict()
        {'rows': [{'field': 'beta', 'default': '20'}], 'more': []}
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """A mapping a row."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"rows": rows, "more": list(self.more)}

    def __str__(self) -> str:
        return "\n".join((text_table(self.header, self.rows), *self.more))


@dataclass(frozen=True, slots=True)
class Plain:
    """Plain values, and a text that says the same.

    Example:
        >>> print(Plain("written to a.svg", {"path": "a.svg"}))
        written to a.svg
    """

    text: str
    values: Mapping[str, Any]

    def to_dict(self) -> Mapping[str, Any]:
        """The values."""
        return self.values

    def __str__(self) -> str:
        return self.text
