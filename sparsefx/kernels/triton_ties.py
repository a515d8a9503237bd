"""Which of equal entries are kept: the first, in the order of row-major indices.

A channels_last weight is stored as (out, positions, in) and indexed as (out, in,
positions). Of such a weight `inner` is the size of the last dimension as stored, and
`outer` that of the last two together; of a row-major one both are 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsefx.kernels.triton_sweeps import (
    ADDRESS,
    FIRST,
    INNER,
    OUTER,
    SIZE,
    magnitudes,
)


@triton.jit
def logical(place, inner, outer):
    """Row-major flat index of the entry stored at `place`."""
    column = place % outer
    return place - column + (column % inner) * (outer // inner) + column // inner


@triton.jit
def stored(index, inner, outer):
    """Where the entry of this row-major flat index is stored."""
    column = index % outer
    positions = outer // inner
    return index - column + (column % positions) * inner + column // positions


@triton.jit
def equals(address, first, size, bits, ELEMENT: tl.constexpr, BLOCK: tl.constexpr):
    """1 where an entry from `first` on has a magnitude of these bits."""
    a = magnitudes(address, first, size, ELEMENT, BLOCK)
    inside = first + tl.arange(0, BLOCK) < size
    return (inside & (a.to(tl.int32, bitcast=True) == bits)).to(tl.int32)


@triton.jit
def find(ties, whole, sites, site, nth, bits, ELEMENT: tl.constexpr,
         CHUNK: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Row-major index of a site's nth entry (from 1) whose magnitude has these bits.

    The chunk that holds it as stored comes from the counts of the last sweep. Layouts
    differ only within one output: there the entries are counted anew, in order.
    """
    first = tl.load(whole + FIRST * sites + site)
    size = tl.load(whole + SIZE * sites + site).to(tl.int32)
    address = tl.load(whole + ADDRESS * sites + site)
    inner = tl.load(whole + INNER * sites + site).to(tl.int32)
    outer = tl.load(whole + OUTER * sites + site).to(tl.int32)
    count = tl.cdiv(size, CHUNK)
    chunk = tl.full([], 0, tl.int32)
    seen = tl.full([], 0, tl.int32)
    passed = tl.full([], 0, tl.int32)  # entries of the chunks before
    start = tl.full([], 0, tl.int32)
    while start < count:
        index = start + tl.arange(0, SPAN)
        number = tl.load(ties + first + index, mask=index < count, other=0)
        reach = seen + tl.cumsum(number, 0)
        short = (index < count) & (reach < nth)
        chunk += tl.sum(short.to(tl.int32), 0)
        passed += tl.sum(tl.where(short, number, 0), 0)
        seen += tl.sum(number, 0)
        start += SPAN
    place = chunk * CHUNK
    seen = passed
    for piece in range(CHUNK // BLOCK):
        equal = equals(
            address, chunk * CHUNK + piece * BLOCK, size, bits, ELEMENT, BLOCK
        )
        reach = seen + tl.cumsum(equal, 0)
        place += tl.sum((reach < nth).to(tl.int32), 0)
        seen += tl.sum(equal, 0)
    if outer > 1:
        row = place - place % outer
        rank = tl.full([], 0, tl.int32)  # of the entry within its output, as stored
        start = row
        while start < place + 1:
            equal = equals(address, start, place + 1, bits, ELEMENT, BLOCK)
            rank += tl.sum(equal, 0)
            start += BLOCK
        place = row
        seen = tl.full([], 0, tl.int32)
        base = address.to(tl.pointer_type(ELEMENT))
        start = tl.full([], 0, tl.int32)
        while start < outer:
            index = start + tl.arange(0, BLOCK)
            w = tl.load(base + stored(row + index, inner, outer), mask=index < outer,
                        other=0.0)  # fmt: skip
            a = tl.abs(w.to(tl.float32))
            equal = (index < outer) & (a.to(tl.int32, bitcast=True) == bits)
            reach = seen + tl.cumsum(equal.to(tl.int32), 0)
            place += tl.sum(((index < outer) & (reach < rank)).to(tl.int32), 0)
            seen += tl.sum(equal.to(tl.int32), 0)
            start += BLOCK
    return place
