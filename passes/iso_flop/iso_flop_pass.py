"""The options that all rewrites at equal cost have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.settings.fields import keep_rules
from sparsefx.settings.kinds import Count, Fraction, Select


@dataclass(frozen=True, slots=True)
class IsoFlopPass(Pass):
    """A rewrite that leaves a layer, or the model, at the cost that it had.

    Attributes:
        density: kept fraction of the new weights, in (0, 1].
        select: ``"inner"``, ``"all"`` or patterns of module paths; see `sites_of`.
        round_to: new sizes are multiples of it, 1 or more.
        iso: what keeps its cost. ``"layer"``: each layer, exactly. ``"model"``: the
            whole model; the sparse weights also pay for norms that it has more of, at
            one multiplication each for an entry.
        init: ``"redraw"``: new weights, of the dense weights' variance corrected for
            density; ``"keep"``: the dense function, as far as the rewrite has it.

    Raises:
        PolicyError: an option is not allowed.
    """

    density: Fraction = 0.5
    select: Select = "inner"
    round_to: Count = 1
    iso: Literal["layer", "maskable", "model"] = "layer"
    init: Literal["redraw", "keep"] = "redraw"

    def __post_init__(self) -> None:
        keep_rules(self)
