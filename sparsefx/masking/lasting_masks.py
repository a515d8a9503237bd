"""Soft masks that last: what kept weights are multiplied by after the freeze.

Where masks stand still, the soft factor ``m`` of the freeze either goes into the
weights and is 1 from then on, or it stays, as it is here: latent weights learn on,
the layer sees ``h m w`` with ``h`` and ``m`` fixed, and ``dL/dw = h m G``. The two
differ in how far a step of the optimizer moves a layer: in the second as much less as
``m`` is. The second is what the authors of Spartan do (arXiv 2205.14107).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import MaskScalars, flagged, magnitude, wide
from sparsefx.masking.held import Held
from sparsefx.masking.weight_groups import Grouping


def factors(weight: Tensor, groups: Grouping | None, scalars: MaskScalars) -> Tensor:
    """The soft mask of every weight, in its shape; no gradient.

    Example:
        >>> one = torch.ones(())
        >>> rule = MaskScalars(0 * one, one, one)
        >>> factors(torch.tensor([1.0, -1.0, 2.0]), None, rule)
        tensor([0.5000, 0.5000, 0.7311])
    """
    if groups is None:
        return scalars.soft(magnitude(weight))
    return groups.factors(weight.detach(), scalars)


class LastingMasks(Held):
    """The soft masks of the freeze, 1 before it.

    Attributes:
        sums: of every site's entries, what they come to together, and those of the kept
            ones; float64, shape (2, sites).
    """

    sums: Tensor

    def __init__(self, weights: Sequence[Tensor]) -> None:  # noqa: D107
        super().__init__()
        for index, weight in enumerate(weights):
            self.hold(f"factor_{index}", torch.ones_like(wide(weight.detach())))
        device = weights[0].device if weights else torch.device("cpu")
        zeros = torch.zeros(2, len(weights), dtype=torch.float64, device=device)
        self.hold("sums", zeros)

    def applied(self, kept: Tensor, index: int) -> Tensor:
        """A site's masked weight under its soft mask."""
        factor: Tensor = getattr(self, f"factor_{index}")
        return flagged(kept * factor.to(kept.dtype), kept)

    def writes(
        self, found: Sequence[Tensor], sums: Sequence[Sequence[float]]
    ) -> list[Callable[[], object]]:
        """What makes these the masks that last; none of it can fail."""
        values = torch.tensor(sums, dtype=torch.float64).to(self.sums.device)
        return [
            partial(self.sums.copy_, values),
            *(
                partial(getattr(self, f"factor_{index}").copy_, factor)
                for index, factor in enumerate(found)
            ),
        ]
