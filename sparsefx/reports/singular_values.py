"""The two largest singular values of a sparse matrix, without a dense factorisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsefx.torch_internals import silence_sparse

# A matrix this small is factorised densely: exact and faster than iterating.
DENSE_ENTRIES = 1 << 16
# A matrix with a side this short goes through the Gram matrix of that side.
GRAM_SIDE = 512
# Below this share of the largest one, squaring would lose the second value's digits.
_SQUARE_LOSS = 1e-3
_TOLERANCE = 1e-7  # of the residual; values converge with its square
_CHECK_EVERY = 10


def top_two(rows: Tensor, columns: Tensor, values: Tensor) -> tuple[float, float]:
    """The two largest singular values of the matrix with these entries.

    Args:
        rows: row of each entry, int64, shape (E,); every row up to the largest one is
            a row of the matrix.
        columns: column of each entry, shape (E,).
        values: the entries, float64, shape (E,).

    Returns:
        ``(sigma_1, sigma_2)``; 0 where the matrix has no such value.

    Example:
        >>> import torch
        >>> index = torch.tensor([0, 1])
        >>> top_two(index, index, torch.tensor([4.0, 2.0], dtype=torch.float64))
        (4.0, 2.0)
    """
    if not len(rows):
        return 0.0, 0.0
    m, n = int(rows.max()) + 1, int(columns.max()) + 1
    if m > n:
        rows, columns, m, n = columns, rows, n, m
    if m == 1:
        return float(torch.linalg.vector_norm(values)), 0.0
    if m * n <= DENSE_ENTRIES:
        return _dense(rows, columns, values, (m, n))
    matrix, transposed = _csr(rows, columns, values, (m, n))
    if m <= GRAM_SIDE:
        gram = torch.sparse.mm(matrix, transposed.to_dense())
        small, large = torch.linalg.eigvalsh(gram)[-2:].clamp_min(0).sqrt().tolist()
        if small > _SQUARE_LOSS * large:
            return large, small
        return _dense(rows, columns, values, (m, n))
    return lanczos(matrix, transposed)


def _dense(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]
) -> tuple[float, float]:
    matrix = values.new_zeros(shape)
    matrix[rows, columns] = values
    first, second, *_ = torch.linalg.svdvals(matrix).tolist()
    return first, second


def _csr(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The matrix and its transpose, each stored by rows."""

    def stored(of: Tensor, other: Tensor, size: tuple[int, int]) -> Tensor:
        order = torch.argsort(of * size[1] + other)
        starts = torch.zeros(size[0] + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(of, minlength=size[0]), 0, out=starts[1:])
        silence_sparse()
        return torch.sparse_csr_tensor(
            starts, other[order], values[order], size, check_invariants=False
        )

    return stored(rows, columns, shape), stored(columns, rows, shape[::-1])


def lanczos(matrix: Tensor, transposed: Tensor) -> tuple[float, float]:
    """Two runs of Golub-Kahan bidiagonalisation with full reorthogonalisation.

    The second run stays orthogonal to the singular vectors of the first one, so that
    a double largest value (a disconnected graph) is found twice.

    Args:
        matrix: sparse, float64, shape (m, n).
        transposed: its transpose.

    Example:
        >>> import torch
        >>> eye = torch.eye(6, dtype=torch.float64).to_sparse()
        >>> [round(value, 9) for value in lanczos(eye, eye)]
        [1.0, 1.0]
    """
    locked: list[tuple[Tensor, Tensor]] = []
    found = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        value, left, right = _leading(matrix, transposed, locked, generator)
        found.append(value)
        locked.append((left, right))
    return max(found), min(found)


def _leading(
    matrix: Tensor,
    transposed: Tensor,
    locked: list[tuple[Tensor, Tensor]],
    generator: torch.Generator,
) -> tuple[float, Tensor, Tensor]:
    """The largest singular triplet orthogonal to the locked ones."""
    m, n = matrix.shape
    steps = max(min(m, n) - len(locked), 1)
    known = len(locked)
    lefts = matrix.new_zeros(known + min(steps, 32), m).to_dense()
    rights = matrix.new_zeros(known + min(steps, 32), n).to_dense()
    for index, (left, right) in enumerate(locked):
        lefts[index], rights[index] = left, right
    start = torch.randn(n, generator=generator, dtype=rights.dtype)
    rights = _with(rights, known, _unit(start, rights[:known])[0])
    alphas: list[float] = []
    betas: list[float] = []
    for step in range(steps):
        here = known + step
        left, alpha = _unit(matrix @ rights[here], lefts[:here])
        lefts = _with(lefts, here, left)
        alphas.append(alpha)
        right, beta = _unit(transposed @ left, rights[: here + 1])
        last = step + 1 == steps or beta == 0 or alpha == 0
        if last or step % _CHECK_EVERY == _CHECK_EVERY - 1:
            size = len(alphas)
            small = torch.diag(lefts.new_tensor(alphas))
            if size > 1:
                small += torch.diag(lefts.new_tensor(betas), 1)
            u, s, vh = torch.linalg.svd(small)
            residual = beta * abs(float(u[-1, 0]))
            if last or residual <= _TOLERANCE * float(s[0]):
                span = slice(known, known + size)
                return float(s[0]), u[:, 0] @ lefts[span], vh[0] @ rights[span]
        betas.append(beta)
        rights = _with(rights, here + 1, right)
    raise AssertionError("the last step returns")


def _unit(vector: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """The part of a vector orthogonal to a basis, normalised, and its length."""
    before = float(torch.linalg.vector_norm(vector))
    for _ in range(2):  # once loses digits, twice is enough
        vector = vector - basis.mT @ (basis @ vector)
    length = float(torch.linalg.vector_norm(vector))
    if length <= 1e-14 * before or not math.isfinite(length):
        return torch.zeros_like(vector), 0.0
    return vector / length, length


def _with(basis: Tensor, index: int, vector: Tensor) -> Tensor:
    """The basis with one more row; it doubles when it is full."""
    if index == len(basis):
        basis = torch.cat([basis, torch.zeros_like(basis)])
    basis[index] = vector
    return basis
