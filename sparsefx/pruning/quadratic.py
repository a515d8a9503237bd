r"""What a pruned layer is off by: a quadratic form in its weight.

With second moments ``H`` of the inputs, the mean squared error of a layer's outputs is

    E(U) = sum_r g_r (u_r - w_r)' H (u_r - w_r)

for weights ``u_r`` instead of ``w_r``, row by row, with an importance ``g_r`` of each
output. Methods work on ``H + damp mean(diag H) I``, scaled to a diagonal of ones, and
on weights scaled alike, whose squares are then what dropping each alone would cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsefx.pruning.moments import Moments

_DEAD = 1e-6


@dataclass(frozen=True, eq=False)
class Inputs:
    """The damped and scaled moments of a layer's inputs.

    Attributes:
        moments: scaled, with the ridge if they are a matrix.
        scale: (groups, inputs): roots of the damped diagonal.
        ridge: (groups,): what was added to the diagonal.

    Example:
        >>> found = Inputs.of(Moments(torch.eye(2)[None] * 4, None), damp=0.25)
        >>> found.scale, found.times(torch.tensor([[[1.0, 2.0]]]))
        (tensor([[2.2361, 2.2361]]), tensor([[[1.0000, 2.0000]]]))
    """

    moments: Moments
    scale: Tensor
    ridge: Tensor

    @classmethod
    def of(cls, moments: Moments, damp: float) -> Inputs:
        """Dampens and scales; where all inputs are always 0, they count as ones."""
        diagonal = moments.diagonal()
        mean = diagonal.mean(1)
        # a group that gets zeros alone is worth next to nothing beside the others
        ridge = damp * torch.maximum(mean, _DEAD * mean.mean())
        ridge = torch.where(ridge > 0, ridge, 1.0)
        scale = (diagonal + ridge[:, None]).sqrt()
        return cls(moments.scaled(scale, ridge), scale, ridge)

    def times(self, rows: Tensor) -> Tensor:
        """``rows H``, scaled and damped."""
        found = self.moments.times(rows)
        if self.moments.matrix is None:
            found += rows * (self.ridge[:, None] / self.scale.square())[:, None]
        return found

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of ``H``, (groups, inputs), and eigenvectors as columns."""
        values, vectors = torch.linalg.eigh(self.matrix())
        return values, vectors

    def matrix(self) -> Tensor:
        """``H``, scaled and damped, (groups, inputs, inputs)."""
        found = self.moments.whole()
        if self.moments.matrix is None:
            extra = self.ridge[:, None] / self.scale.square()
            found = found + torch.diag_embed(extra)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic:
    """A layer's weight, and what it costs to change it.

    Attributes:
        target: (groups, outputs, inputs): the weight, scaled.
        inputs: what it is multiplied with.
        roots: (groups, outputs, 1): roots of the importances of the outputs.

    Example:
        >>> inputs = Inputs.of(Moments(torch.eye(2)[None], None), damp=1e-9)
        >>> layer = Quadratic.of(torch.tensor([[[3.0, 4.0]]]), inputs)
        >>> kept = layer.target * torch.tensor([0.0, 1.0])
        >>> round(layer.error(kept), 4)
        0.36
    """

    target: Tensor
    inputs: Inputs
    roots: Tensor

    @classmethod
    def of(
        cls, weight: Tensor, inputs: Inputs, importance: Tensor | None = None
    ) -> Quadratic:
        """The problem of a weight (groups, outputs, inputs).

        Args:
            weight: of the type of the moments.
            inputs: what it is multiplied with.
            importance: (groups, outputs), not negative; all alike if None.
        """
        roots = torch.ones_like(weight[..., :1])
        if importance is not None:
            share = importance / importance.mean().clamp_min(1e-30)
            roots = share.clamp_min(1e-3).sqrt()[..., None].to(weight)
        return cls(weight * inputs.scale[:, None] * roots, inputs, roots)

    def back(self, scaled: Tensor) -> Tensor:
        """A weight from its scaled form."""
        return scaled / self.inputs.scale[:, None] / self.roots

    def loss(self, scaled: Tensor) -> float:
        """``E`` of a weight, without the ridge."""
        off = scaled - self.target
        extra = (self.inputs.ridge[:, None] / self.inputs.scale.square())[:, None]
        found = (off * self.inputs.times(off)).sum() - (extra * off * off).sum()
        return max(float(found), 0.0)

    def error(self, scaled: Tensor) -> float:
        """``E`` of a weight over that of no weight."""
        whole = self.loss(torch.zeros_like(self.target))
        return self.loss(scaled) / whole if whole > 0 else 0.0
