r"""The masked weight on a GPU: one launch forward, two backward, one for all couplings.

The mathematics is that of `sparsefx.masking.masked_weight` and
`sparsefx.masking.budget_gradient`; everything is computed in float32 from scalars that
stay on the device, and rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsefx.kernels.triton_sweeps import sigmoid
from sparsefx.kernels.triton_ties import logical

BLOCK = 2048


@triton.jit
def evaluate(w, mu, slope, center):
    """Magnitude, soft mask, and slope, of entries."""
    a = tl.abs(w)
    steep = tl.load(slope).to(tl.float32)
    x = (a - tl.load(center).to(tl.float32)) * steep + tl.load(mu).to(tl.float32)
    return a, sigmoid(x), steep


@triton.jit
def forward(weight, bits, out, mu, slope, center, size, inner, outer,
            BLOCK: tl.constexpr):  # fmt: skip
    """``h m w``, cast to the type of `out`; bits are in the logical order."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = place < size
    w = tl.load(weight + place, mask=here, other=0.0).to(tl.float32)
    _, m, _ = evaluate(w, mu, slope, center)
    index = place
    if outer > 1:
        index = logical(place, inner, outer)
    byte = tl.load(bits + index // 8, mask=here, other=0).to(tl.int32)
    kept = ((byte >> (index % 8).to(tl.int32)) & 1) == 1
    tl.store(out + place, tl.where(kept, w * m, 0.0), mask=here)


@triton.jit
def backward(grad, weight, out, partial, mu, slope, center, size,
             BLOCK: tl.constexpr):  # fmt: skip
    """The local gradient, and ``sum G w s`` of each block."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = place < size
    w = tl.load(weight + place, mask=here, other=0.0).to(tl.float32)
    g = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)
    a, m, steep = evaluate(w, mu, slope, center)
    s = m * (1.0 - m)
    tl.store(out + place, g * (m + a * steep * s), mask=here)
    terms = tl.where(here, g * w * s, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(terms.to(tl.float64), 0))


@triton.jit
def add_up(partial, total, count, SPAN: tl.constexpr):
    """The sum of the blocks' sums, always in the same order; one program."""
    sums = tl.zeros([SPAN], tl.float64)
    start = tl.full([], 0, tl.int32)
    while start < count:
        index = start + tl.arange(0, SPAN)
        sums += tl.load(partial + index, mask=index < count, other=0.0)
        start += SPAN
    tl.store(total, tl.sum(sums, 0))


@triton.jit
def correct(owner, table, mu, slope, center, factor, sites, ELEMENT: tl.constexpr,
            CHUNK: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Subtracts ``sign(w) factor m (1 - m)`` from the gradients of all sites.

    `table` has a column a site: weight, gradient, size, first chunk, its number.
    """
    chunk = tl.program_id(0)
    column = table + tl.load(owner + chunk)
    site = tl.load(column + 4 * sites)
    share = tl.load(factor + site).to(tl.float32)
    if share == 0:
        return
    weight = tl.multiple_of(tl.load(column).to(tl.pointer_type(ELEMENT)), 16)
    grad = tl.load(column + sites).to(tl.pointer_type(ELEMENT))
    grad = tl.multiple_of(grad, 16)
    size = tl.load(column + 2 * sites)
    start = (chunk - tl.load(column + 3 * sites)) * CHUNK
    middle = tl.load(center + site).to(tl.float32)
    steep = tl.load(slope + site).to(tl.float32)
    offset = tl.load(mu + site).to(tl.float32)
    for piece in range(CHUNK // BLOCK):
        place = start + piece * BLOCK + tl.arange(0, BLOCK)
        if start + (piece + 1) * BLOCK <= size:  # without a mask: vector accesses
            w = tl.load(weight + place).to(tl.float32)
            g = tl.load(grad + place).to(tl.float32)
            tl.store(grad + place, g - pull(w, steep, middle, offset, share))
        else:
            here = place < size
            w = tl.load(weight + place, mask=here, other=0.0).to(tl.float32)
            g = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)
            g -= pull(w, steep, middle, offset, share)
            tl.store(grad + place, g, mask=here)


@triton.jit
def pull(w, steep, middle, offset, share):
    """``sign(w) share m (1 - m)``."""
    m = sigmoid((tl.abs(w) - middle) * steep + offset)
    term = share * (m * (1.0 - m))
    return tl.where(w > 0, term, tl.where(w < 0, -term, 0.0))
