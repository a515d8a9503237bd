"""Numbers and tables as a person reads them, in plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def human(number: float) -> str:
    """A number with three digits and a unit of thousands.

    Example:
        >>> human(81234), human(576), human(4.09e9), human(0.25)
        ('81.2 k', '576', '4.09 G', '0.25')
    """
    rounded = float(f"{number:.3g}")
    for unit, letter in UNITS:
        if abs(rounded) >= unit:
            digits = 2 - math.floor(math.log10(abs(rounded) / unit))
            return f"{rounded / unit:.{max(digits, 0)}f} {letter}"
    return f"{rounded:g}"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    Args:
        share: usually in [0, 1]; NaN stands for a share of nothing.
        digits: digits after the point.

    Example:
        >>> percent(0.0998), percent(float("nan"))
        ('10.0 %', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def share(part: float, whole: float) -> float:
    """``part / whole``; NaN where the whole is 0.

    Example:
        >>> share(1, 4), share(0, 0)
        (0.25, nan)
    """
    return part / whole if whole else math.nan


def shape_text(shape: Sequence[object]) -> str:
    """A shape as one word.

    Example:
        >>> shape_text((16, 3, 3, 3)), shape_text(())
        ('16x3x3x3', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def elided(text: str, most: int) -> str:
    """A text cut in the middle where it is longer than ``most`` characters.

    Example:
        >>> elided("blocks.11.attention.weight", 20)
        'blocks.11…ion.weight'
    """
    if len(text) <= most:
        return text
    tail = max(most, 8) // 2
    return f"{text[: tail - 1]}…{text[-tail:]}"


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Columns aligned with spaces, a rule below the header.

    Args:
        header: names of the columns.
        rows: one text a column.
        right: indices of the columns aligned on the right.

    Example:
        >>> print(text_table(("layer", "macs"), [("stem", "9.2 k")], right=(1,)))
        layer   macs
        -----  -----
        stem   9.2 k
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])

    def aligned(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))
