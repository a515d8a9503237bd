"""Patterns that the zeros of a matrix form."""

from __future__ import annotations

from torch import Tensor

BLOCKS = (128, 64, 32, 16, 8, 4)
_FULL = 0.9


def block_size(matrix: Tensor) -> int | None:
    """The largest square blocks that the kept weights fill, or None.

    A block that is kept must hold 90 % of non-zero weights on average: training may
    leave a few zeros in it.

    Args:
        matrix: ``(rows, columns)``.

    Example:
        >>> import torch
        >>> mask = torch.eye(4).repeat_interleave(16, 0).repeat_interleave(16, 1)
        >>> block_size(mask), block_size(torch.eye(8))
        (16, None)
    """
    rows, columns = matrix.shape
    kept = matrix != 0
    count = int(kept.sum())
    for size in BLOCKS:
        if rows % size or columns % size or not count:
            continue
        blocks = kept.reshape(rows // size, size, columns // size, size)
        held = int(blocks.any(3).any(1).sum()) * size * size
        if count >= _FULL * held and held < rows * columns:
            return size
    return None


def shares_columns(matrix: Tensor, rows: int) -> bool:
    """Whether each ``rows`` rows that follow one another keep the same columns.

    As for blocks, a few zeros may be among what is kept.

    Example:
        >>> import torch
        >>> matrix = torch.eye(2).repeat_interleave(4, 0)
        >>> shares_columns(matrix, 4), shares_columns(torch.eye(8), 4)
        (True, False)
    """
    if matrix.shape[0] % rows:
        return False
    kept = (matrix != 0).reshape(-1, rows, matrix.shape[1])
    return int(kept.sum()) >= _FULL * rows * int(kept.any(1).sum())


def is_two_of_four(matrix: Tensor) -> bool:
    """Whether each four neighbours in a row hold at most two non-zero weights.

    Example:
        >>> import torch
        >>> is_two_of_four(torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
        True
        >>> is_two_of_four(torch.ones(1, 4))
        False
    """
    if matrix.shape[1] % 4:
        return False
    return bool((matrix.reshape(-1, 4).count_nonzero(1) <= 2).all())


def kept_lines(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the rows and of the columns that hold a non-zero weight.

    Example:
        >>> import torch
        >>> [part.tolist() for part in kept_lines(torch.tensor([[0.0, 1.0], [0, 0]]))]
        [[0], [1]]
    """
    kept = matrix != 0
    return kept.any(1).nonzero().flatten(), kept.any(0).nonzero().flatten()
