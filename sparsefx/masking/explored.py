"""Which weights were kept at some step, a bit a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparsefx.kernels.bits import empty_bits, pack, unpack
from sparsefx.masking.held import Held


class Explored(Held):
    """What masks have kept so far: ``ever_0``, ..., and how many weights that is.

    Example:
        >>> explored = Explored([torch.ones(4)])
        >>> for mask in ([True, False, False, False], [False, True, False, False]):
        ...     writes, share = explored.after([torch.tensor(mask)])
        ...     for write in writes:
        ...         _ = write()
        >>> share, explored.share()
        (0.5, 0.5)
    """

    count: Tensor

    def __init__(self, weights: Sequence[Tensor]) -> None:  # noqa: D107
        super().__init__()
        self.numel = sum(weight.numel() for weight in weights)
        for index, weight in enumerate(weights):
            self.hold(f"ever_{index}", empty_bits(weight.numel(), weight.device))
        self.hold("count", torch.tensor(0))

    def share(self) -> float:
        """Of the weights, those that were kept at some step, in [0, 1]."""
        return int(self.count) / max(self.numel, 1)

    @torch.no_grad()
    def after(
        self, masks: Sequence[Tensor], *, anew: bool = False
    ) -> tuple[list[Callable[[], object]], float]:
        """What remembers one more step, and the share that this comes to.

        Args:
            masks: of that step, bool, one a weight.
            anew: what was kept before is forgotten.
        """
        writes: list[Callable[[], object]] = []
        count = 0
        for index, mask in enumerate(masks):
            ever, bits = getattr(self, f"ever_{index}"), pack(mask)
            if not anew:
                bits |= ever
            count += int(unpack(bits, mask.shape).count_nonzero())
            writes.append(partial(ever.copy_, bits))
        writes.append(partial(self.count.fill_, count))
        return writes, count / max(self.numel, 1)
