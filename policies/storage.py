"""How a masked weight is stored, and what that takes: bytes by kept weight and fixed.

Index types are those torch itself makes: int64 in CSR and BSR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site

Storage = Literal["values", "dense", "csr", "bitmask", "2:4", "bsr"]
_INDEX = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a weight in some storage: ``fixed + per_kept * kept``."""

    per_kept: float
    fixed: float


def stored(site: Site, storage: str, itemsize: int) -> Stored:
    """What a weight takes when stored.

    Args:
        site: the weight; sizes after the first dimension are joined to columns.
        storage: ``"values"``: what is kept and nothing else. ``"dense"``: everything,
            whatever is kept. ``"csr"``: values, their columns, where rows begin.
            ``"bitmask"``: values and a bit for each entry. ``"2:4"``: two values of
            four and two bits for each. ``"bsr"``: as csr, for blocks.
        itemsize: bytes of one value.

    Raises:
        PolicyError: the site's granularity does not give that storage.

    Example:
        >>> site = Site("w", "fc", "linear", (4, 16), {})
        >>> stored(site, "csr", 4), stored(site, "bitmask", 4)
        (Stored(per_kept=12, fixed=40), Stored(per_kept=4, fixed=8))
    """
    kind = str(site.granularity)
    match storage:
        case "values":
            return Stored(itemsize, 0)
        case "dense":
            return Stored(0, itemsize * site.numel)
        case "csr":
            return Stored(itemsize + _INDEX, _INDEX * (site.shape[0] + 1))
        case "bitmask":
            return Stored(itemsize, math.ceil(site.numel / 8))
        case "2:4":
            if kind != "2:4":
                raise _unfit(site, storage, 'granularity "2:4"')
            return Stored(itemsize + 0.25, 0)
        case "bsr":
            if site.granularity.kind != "block":
                raise _unfit(site, storage, 'a granularity such as "block:4x4"')
            height, width = site.granularity.sizes
            rows = math.ceil(site.shape[0] / height)
            return Stored(itemsize + _INDEX / (height * width), _INDEX * (rows + 1))
    raise PolicyError(
        f"storage {storage!r} is not known; known: {', '.join(get_args(Storage))}"
    )


def _unfit(site: Site, storage: str, needed: str) -> PolicyError:
    return PolicyError(
        f"storage {storage!r} needs {needed}, but {site.name} is {site.granularity}; "
        "choose another storage, or exclude that layer"
    )
