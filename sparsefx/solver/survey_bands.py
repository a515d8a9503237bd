"""Where hard masks are decided, and the one sweep that gathers what lies about there.

A step of training moves magnitudes little, so the next masks are decided near where the
last ones were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from sparsefx.kernels import Survey, kernels_for
from sparsefx.kernels.mask_rule import readable, rounded
from sparsefx.solver.hard_masks import HardMasks
from sparsefx.solver.layer import Layer
from sparsefx.solver.solution import Cut

_WHOLE = 1024  # weights of at most so many entries are gathered whole
# By what the band is wider than the cuts at both ends, relative; 1/sqrt(entries) times
# _SPREAD where that is more.
_WIDTH = 0.005
_SPREAD = 2.0


def cuts(layers: Sequence[Layer], hard: HardMasks) -> tuple[Cut, ...]:
    """Where these masks were decided, one pair a layer.

    A layer held at its greatest count, or at a least one of many entries, is decided by
    its own threshold alone; one that keeps all or none, by the cutoff alone.
    """
    found = []
    for layer, count, (own, _) in zip(layers, hard.counts, hard.rules, strict=True):
        shared = hard.cutoff * layer.price / layer.worth
        if not 0 < count < layer.magnitude.numel():
            own = shared
        elif count == layer.upper or count == layer.lower > _WHOLE:
            shared = own
        found.append((min(own, shared), max(own, shared)))
    return tuple(found)


def ahead(now: Sequence[Cut], before: Sequence[Cut] | None) -> tuple[Cut, ...]:
    """Where masks are decided next: as now, or as much further as since before.

    Example:
        >>> ahead(((2.0, 3.0),), ((1.5, 3.5),))
        ((2.0, 3.0),)
        >>> ahead(((2.0, 3.0),), ((1.5, 2.5),))
        ((2.0, 3.5),)
    """
    pairs = zip(now, before or now, strict=True)
    return tuple(
        (min(low, 2.0 * low - old_low), max(high, 2.0 * high - old_high))
        for (low, high), (old_low, old_high) in pairs
    )


def look(weights: Sequence[Tensor], near: Sequence[Cut] | None) -> Survey:
    """One sweep over the weights, which gathers the magnitudes about `near`.

    Small weights are gathered whole; a few entries may jump.

    Args:
        weights: latent weights, one tensor a site, any shape.
        near: magnitudes between which masks may be decided, or None.
    """
    flats = [readable(weight) for weight in weights]
    lows, highs = [0.0] * len(flats), [0.0] * len(flats)
    for i, (low, high) in enumerate(near or ()):
        size = flats[i].numel()
        if size <= _WHOLE:
            highs[i] = math.inf
            continue
        width = max(_WIDTH, _SPREAD / math.sqrt(size))
        lows[i] = rounded(low * (1.0 - width), flats[i].dtype)
        highs[i] = rounded(high * (1.0 + width), flats[i].dtype)
    return kernels_for(flats).survey(flats, lows, highs)
