"""The unit of a weight that lives or dies together, as users write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsefx.errors import PolicyError
from sparsefx.settings.rules import shown

FORMS = (
    'unstructured, "block:HxW" (as "block:16x16"; "block:16x16:pad" lets a layer end '
    'inside a block, "block:16x16:taps" cuts convolutions at each place of the '
    'kernel), "N:M" (as "2:4"), channel, kernel'
)
_BLOCK = re.compile(r"block:([0-9]{1,9})x([0-9]{1,9})(:taps)?(:pad)?")
_N_OF_M = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_LARGEST = 64  # of M in N:M: beyond it a block or no structure serves better


@dataclass(frozen=True, slots=True)
class Granularity:
    """The unit of a weight that lives or dies together.

    Attributes:
        kind: ``"unstructured"``, ``"block"``, ``"n_of_m"``, ``"channel"`` or
            ``"kernel"``.
        sizes: height and width of a block; N and M; else empty.
        pad: a layer whose sizes no whole blocks fill has partial ones at its edges,
            which cost as much as whole ones; otherwise it is refused.
        taps: blocks of a convolution are of outputs times inputs, at each place of
            its kernel; otherwise of outputs times all that they multiply.

    Example:
        >>> Granularity.parse("2:4")
        Granularity(kind='n_of_m', sizes=(2, 4), pad=False, taps=False)
        >>> str(Granularity.parse("block:16X16:pad"))
        'block:16x16:pad'
    """

    kind: str = "unstructured"
    sizes: tuple[int, ...] = ()
    pad: bool = False
    taps: bool = False

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Reads ``"unstructured"``, ``"block:HxW"``, ``"N:M"`` and the others.

        Raises:
            PolicyError: the text is none of them; the message lists those that are.
        """
        plain = "".join(text.lower().split()) if isinstance(text, str) else ""
        if plain in ("unstructured", "channel", "kernel"):
            return cls(plain)
        block, n_of_m = _BLOCK.fullmatch(plain), _N_OF_M.fullmatch(plain)
        if block:
            height, width = int(block[1]), int(block[2])
            if height < 1 or width < 1 or height * width == 1:
                raise PolicyError(
                    f"granularity {text!r} has blocks of {height} x {width} weights; "
                    "blocks hold two weights or more, as in block:16x16 (unstructured "
                    "keeps single ones)"
                )
            return cls("block", (height, width), bool(block[4]), bool(block[3]))
        if n_of_m:
            kept, of = int(n_of_m[1]), int(n_of_m[2])
            if not 0 < kept < of <= _LARGEST:
                raise PolicyError(
                    f"granularity {text!r} keeps {kept} of every {of} weights; N must "
                    f"be at least 1 and below M, and M at most {_LARGEST}, as in 2:4"
                )
            return cls("n_of_m", (kept, of))
        raise PolicyError(f"granularity {shown(text)} is not known; allowed: {FORMS}")

    def __str__(self) -> str:
        if self.kind == "block":
            ends = ":taps" * self.taps + ":pad" * self.pad
            return f"block:{self.sizes[0]}x{self.sizes[1]}{ends}"
        if self.kind == "n_of_m":
            return f"{self.sizes[0]}:{self.sizes[1]}"
        return self.kind
