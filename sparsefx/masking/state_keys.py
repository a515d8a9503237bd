"""Under which name a model holds what `sparsefx.transform` left in it."""

from __future__ import annotations

from collections.abc import Iterable

CHILD = "_sparsefx"


def of_dense(keys: Iterable[str], prefix: str) -> bool:
    """Whether a state dict is that of a dense model: it speaks of no masks at all.

    Args:
        keys: of the state dict.
        prefix: under which a part of the masks' state is looked for.

    Example:
        >>> of_dense(["fc.weight"], "_sparsefx.weights.")
        True
        >>> of_dense(["fc.weight", "_sparsefx.step"], "_sparsefx.weights.")
        False
    """
    whole = prefix[: prefix.find(CHILD) + len(CHILD)] + "."
    return not any(key.startswith(whole) for key in keys)
