r"""Second moments ``H = X' X / T`` of a layer's inputs, as a matrix or as its root.

Where a layer has more inputs than rows were seen, or so few outputs that forming the
matrix costs more than it saves, the rows themselves are kept: ``u H = (u X') X / T``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_PRODUCTS = 60  # about so often is a method going to multiply with H


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Second moments of the inputs of G products.

    Attributes:
        matrix: (groups, inputs, inputs), or None.
        root: (groups, rows, inputs), ``X / sqrt(T)``, where there is no matrix.

    Example:
        >>> found = Moments(None, torch.tensor([[[1.0, 2.0]]]))
        >>> found.times(torch.tensor([[[1.0, 0.0]]])), found.diagonal()
        (tensor([[[1., 2.]]]), tensor([[1., 4.]]))
    """

    matrix: Tensor | None
    root: Tensor | None

    def times(self, rows: Tensor) -> Tensor:
        """``rows H``; shape (groups, outputs, inputs)."""
        if self.matrix is not None:
            return rows @ self.matrix
        assert self.root is not None
        return (rows @ self.root.mT) @ self.root

    def diagonal(self) -> Tensor:
        """Mean squares of the inputs, shape (groups, inputs)."""
        if self.matrix is not None:
            return self.matrix.diagonal(dim1=1, dim2=2)
        assert self.root is not None
        return self.root.square().sum(1)

    def whole(self) -> Tensor:
        """The matrix, whatever is kept."""
        if self.matrix is not None:
            return self.matrix
        assert self.root is not None
        return self.root.mT @ self.root

    def scaled(self, scale: Tensor, ridge: Tensor) -> Moments:
        """``(H + ridge I) / (scale scale')``, or, of a root, without the ridge.

        Args:
            scale: (groups, inputs), above 0.
            ridge: (groups,).
        """
        if self.matrix is None:
            assert self.root is not None
            return Moments(None, self.root / scale[:, None])
        matrix = self.matrix / scale[:, :, None] / scale[:, None]
        matrix.diagonal(dim1=1, dim2=2).add_(ridge[:, None] / scale.square())
        return Moments(matrix, None)


def moments_of(
    parts: Iterable[Tensor], count: int, outputs: int, memory: float
) -> Moments:
    """Moments of rows that come in parts.

    Args:
        parts: each (groups, rows, inputs), of the type to compute in.
        count: rows of all parts, about.
        outputs: of each group.
        memory: bytes that a matrix may take.

    Example:
        >>> rows = torch.randn(1, 50, 3, dtype=torch.float64)
        >>> whole = moments_of([rows], 50, 8, 1e9)
        >>> torch.allclose(whole.matrix, rows.mT @ rows / 50)
        True
        >>> moments_of([rows], 50, 8, memory=10).matrix is None
        True
    """
    kept: list[Tensor] = []
    matrix, seen = None, 0
    for part in parts:
        groups, rows, inputs = part.shape
        seen += rows
        size = groups * inputs**2 * part.element_size()
        forming = inputs * (count + _PRODUCTS * outputs)
        if size > memory or forming > 2 * _PRODUCTS * outputs * count:
            kept.append(part)
            continue
        if matrix is None:
            matrix = part.new_zeros(groups, inputs, inputs)
        matrix.baddbmm_(part.mT, part)
    if matrix is not None:
        return Moments(matrix / max(seen, 1), None)
    return Moments(None, torch.cat(kept, 1) / max(seen, 1) ** 0.5)
