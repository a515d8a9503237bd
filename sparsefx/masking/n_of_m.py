r"""N:M sparsity: at most N of every M weights along the input axis.

A layer of this granularity keeps the N largest of every M whatever the budget; the rest
is one entry that the budget buys or not. So the solver chooses *which layers* are N:M.
With ``n`` the soft top-N of each run of M magnitudes ``a``,

    n_i = sigmoid(slope * (a_i - c)),    c such that sum_i n_i = N,

and ``z`` the soft mask of the layer's one entry, a weight's mask is

    m = 1 - (1 - n) (1 - z)

It costs ``N/M + z (1 - N/M)`` of the layer, exactly, and is 1 where ``z`` is. The value
of the entry is the mean magnitude of what N:M would drop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import MaskScalars, magnitude, wide
from sparsefx.masking.weight_groups import Layout

# Newton's method with a bracket: what doubles allow after these many steps, for every
# run of up to 64 magnitudes (tests compare with bisection).
_STEPS = 24


@dataclass(frozen=True, slots=True)
class NOfM:
    """The runs of M weights along the inputs of a weight.

    Attributes:
        layout: of the weight.
        kept, of: N and M.

    Example:
        >>> weight = torch.tensor([[4.0, 1.0, -3.0, 2.0]])
        >>> NOfM(Layout((1, 4), "rows"), 2, 4).values(weight)
        tensor([1.5000])
    """

    layout: Layout
    kept: int
    of: int

    @property
    def count(self) -> int:
        """The rest of the layer is one entry."""
        return 1

    @property
    def size(self) -> int:
        """Weights that N:M drops."""
        return self._numel() // self.of * (self.of - self.kept)

    @property
    def base(self) -> int:
        """Weights that N:M keeps."""
        return self._numel() // self.of * self.kept

    @property
    def least(self) -> int:
        """N:M lets no output die."""
        return 0

    def split(self, weight: Tensor) -> Tensor:
        """The runs as rows, shape (weights / M, M)."""
        return weight.movedim(self._axis(), -1).reshape(-1, self.of)

    def join(self, runs: Tensor) -> Tensor:
        """What `split` made runs of."""
        shape, axis = self.layout.shape, self._axis()
        moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
        return runs.reshape(moved).movedim(-1, axis)

    def top(self, weight: Tensor) -> Tensor:
        """The bool mask of the N largest magnitudes of every run; ties by index."""
        a = self.split(weight.detach().abs())
        order = torch.sort(a, dim=-1, descending=True, stable=True).indices
        found = torch.zeros_like(a, dtype=torch.bool)
        return self.join(found.scatter_(-1, order[:, : self.kept], True))

    def values(self, weight: Tensor) -> Tensor:
        """See `Grouping.values`."""
        return self._rest(magnitude(weight), self.top(weight))

    def pull(self, weight: Tensor, slopes: Tensor) -> Tensor:
        """See `Grouping.pull`."""
        return self._pull(weight, slopes, self.top(weight))

    def expand(self, weight: Tensor, kept: Tensor) -> Tensor:
        """See `Grouping.expand`."""
        return self.top(weight) | kept

    def soft(self, weight: Tensor, slope: Tensor) -> Tensor:
        """The soft top-N of every run, like the weight; no gradient."""
        runs = self.split(magnitude(weight))
        return self.join(soft_top(runs, slope.to(runs.dtype), self.kept))

    def soft_pull(self, weight: Tensor, n: Tensor, slope: Tensor, pushed: Tensor
                  ) -> Tensor:  # fmt: skip
        """``sum_i pushed_i dn_i/dw``, through the runs' own centres too."""
        m, g = self.split(n), self.split(pushed)
        s = m * (1 - m)
        total = s.sum(-1, keepdim=True)
        mean = (g * s).sum(-1, keepdim=True) / total.where(total > 0, 1.0)
        return weight.sign() * self.join(slope * s * (g - mean))

    def factors(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """See `Grouping.factors`."""
        top = self.top(weight)
        v = self._rest(magnitude(weight), top)
        n, m = self.soft(weight, scalars.slope), scalars.soft(v)
        return 1 - (1 - n) * (1 - m)

    def masked_backward(
        self, grad: Tensor, weight: Tensor, scalars: MaskScalars
    ) -> tuple[Tensor, Tensor]:
        """See `Grouping.masked_backward`."""
        top = self.top(weight)
        v = self._rest(magnitude(weight), top)
        m, n = scalars.soft(v), self.soft(weight, scalars.slope)
        steep, g = scalars.slope.to(v.dtype), grad.to(v.dtype)
        s = m * (1 - m)
        a = g * weight
        pushed = self.soft_pull(weight, n, steep, a * (1 - m))
        rest = (a * (1 - n)).sum()[None]
        local = g * (1 - (1 - n) * (1 - m)) + pushed
        local = local + self._pull(weight, s * steep * rest, top)
        return local, (rest * s).sum(dtype=torch.float64)

    def transformable(self, weight: Tensor, scalars: MaskScalars) -> Tensor:
        """See `Grouping.transformable`."""
        a, top = wide(weight.abs()), self.top(weight)
        v = self._rest(a, top)
        n = self.join(soft_top(self.split(a), scalars.slope.to(a.dtype), self.kept))
        m = 1 - (1 - n) * (1 - scalars.soft(v))
        return weight * m.to(weight.dtype)

    def _rest(self, magnitudes: Tensor, top: Tensor) -> Tensor:
        """The mean magnitude of what is not in `top`, shape (1,)."""
        rest: Tensor = magnitudes.masked_fill(top, 0.0).sum() / max(self.size, 1)
        return rest.reshape(1)

    def _pull(self, weight: Tensor, slopes: Tensor, top: Tensor) -> Tensor:
        share = (slopes / max(self.size, 1)).to(weight.dtype)
        return (weight.sign() * share).masked_fill(top, 0.0)

    def _axis(self) -> int:
        kinds = {"conv": 1, "conv_transpose": 0}
        return kinds.get(self.layout.kind, len(self.layout.shape) - 1)

    def _numel(self) -> int:
        return torch.Size(self.layout.shape).numel()


def soft_top(magnitudes: Tensor, slope: Tensor | float, kept: int) -> Tensor:
    r"""``sigmoid(slope (a - c))`` with ``c`` such that each row sums to ``kept``.

    Args:
        magnitudes: shape (rows, M), not negative.
        slope: inverse temperature, above 0.
        kept: the sum of each row, above 0 and below M.

    Example:
        >>> soft_top(torch.tensor([[3.0, 3.0, 1.0, 1.0]]), 2.0, 2)
        tensor([[0.8808, 0.8808, 0.1192, 0.1192]])
    """
    x = magnitudes * slope
    x = x - x.mean(-1, keepdim=True)
    # the answer lies between keeping every entry as the least and as the largest one
    logit = torch.logit(torch.tensor(kept / x.shape[-1], dtype=x.dtype)).to(x.device)
    low, high = logit - x.amax(-1, keepdim=True), logit - x.amin(-1, keepdim=True)
    mu = (low + high) / 2
    for _ in range(_STEPS):
        m = torch.sigmoid(x + mu)
        over = m.sum(-1, keepdim=True) - kept
        high = torch.where(over > 0, mu, high)
        low = torch.where(over > 0, low, mu)
        step = mu - over / (m * (1 - m)).sum(-1, keepdim=True)
        inside = (step >= low) & (step <= high)
        mu = torch.where(inside, step, (low + high) / 2)
    return torch.sigmoid(x + mu)
