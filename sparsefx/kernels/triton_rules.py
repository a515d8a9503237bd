"""The last kernels of the device solver: each site's rule, and what a step changed."""

from __future__ import annotations

import triton
import triton.language as tl

from sparsefx.kernels.triton_sweeps import (
    ABOVE,
    ACTIVE,
    ADDRESS,
    BAD,
    BETA,
    BILL,
    COUNT,
    FIRST,
    HIGH,
    INNER,
    LEAST,
    LIMIT,
    LOW,
    MOVED,
    NU,
    OUTER,
    PRICE,
    REF,
    SIZE,
    SWEEPS,
    TIED,
    VALUE,
    WORTH,
    fours,
    magnitudes,
    place_mask,
    sigmoid,
)
from sparsefx.kernels.triton_ties import find, logical

HEADER = tl.constexpr(3)  # numbers of a summary that belong to no site
_INF = tl.constexpr(float("inf"))


@triton.jit
def settle(owner, whole, real, control, state, partial, ties, mu, slope, center,
           threshold, last, price, spread, group, dual, sites, chunks, leader,
           KEEP: tl.constexpr, ELEMENT: tl.constexpr, CHUNK: tl.constexpr,
           BLOCK: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Writes the mask parameters of one site; one program a site.

    Where a weight is not finite nothing is written. With `KEEP` all is kept.
    """
    if tl.load(control + BAD) >= 0:
        return
    site = tl.program_id(0)
    size = tl.load(whole + SIZE * sites + site)
    cost = tl.load(real + PRICE * sites + site)
    beta = tl.load(state + BETA)
    tl.store(price + site, cost)
    if site == 0:
        shared = tl.load(state + NU) - beta * tl.load(state + REF)
        if KEEP:
            shared = tl.full([], _INF, tl.float64)
        tl.store(dual, shared)
        tl.store(dual + 1, beta)
    if (tl.load(whole + ACTIVE * sites + site) == 0) | KEEP:
        tl.store(mu + site, _INF)
        tl.store(slope + site, 1.0)
        tl.store(center + site, 0.0)
        tl.store(spread + site, 0.0)
        tl.store(threshold + site, -1.0)
        tl.store(last + site, size - 1)
        tl.store(group + site, site)
    else:
        high = tl.load(real + HIGH * sites + site)
        steep, middle, offset = place_mask(
            tl.load(state + NU), tl.load(state + REF), beta,
            tl.load(real + WORTH * sites + site), cost,
            tl.load(real + LOW * sites + site), high,
        )  # fmt: skip
        tl.store(mu + site, offset.to(tl.float64))
        tl.store(slope + site, steep.to(tl.float64))
        tl.store(center + site, middle.to(tl.float64))
        tl.store(group + site, leader)
        first = tl.load(whole + FIRST * sites + site)
        count = tl.cdiv(size, CHUNK)
        sums = tl.zeros([SPAN], tl.float64)
        start = tl.full([], 0, tl.int32)
        while start < count:
            index = start + tl.arange(0, SPAN)
            sums += tl.load(partial + chunks + first + index, mask=index < count,
                            other=0.0)  # fmt: skip
            start += SPAN
        tl.store(spread + site, cost * tl.sum(sums, 0))

        # One row a site: its entries at the cutoff. Better rows are paid first.
        column = tl.arange(0, WIDTH)
        here = column < sites
        active = tl.load(whole + ACTIVE * sites + column, mask=here, other=0) != 0
        above = tl.load(whole + ABOVE * sites + column, mask=active, other=0)
        tied = tl.load(whole + TIED * sites + column, mask=active, other=0)
        bits = tl.load(whole + VALUE * sites + column, mask=active, other=0)
        bill = tl.load(real + BILL * sites + column, mask=active, other=0.0)
        rate = tl.load(real + WORTH * sites + column, mask=active, other=0.0) / tl.load(
            real + PRICE * sites + column, mask=active, other=1.0
        )
        a = bits.to(tl.int32).to(tl.float32, bitcast=True)
        unit = tl.where(tied > 0, a.to(tl.float64) * rate, -1.0)
        own = column == site
        mine = tl.sum(tl.where(own, unit, 0.0), 0)
        better = (unit > mine) | ((unit == mine) & (column < site))
        paid = tl.sum(bill * above.to(tl.float64), 0)
        paid += tl.sum(tl.where(better, bill * tied.to(tl.float64), 0.0), 0)
        equal = tl.sum(tl.where(own, tied, 0), 0)
        charge = tl.sum(tl.where(own, bill, 0.0), 0)
        limit = tl.load(state + LIMIT)
        part = tl.floor(tl.maximum(limit - paid, 0.0) / charge)
        part = tl.where(paid + charge * part > limit, part - 1.0, part)
        part = tl.where(paid <= limit, tl.maximum(part, 0.0), 0.0)
        bought = tl.minimum(part, equal.to(tl.float64)).to(tl.int64)
        surely = tl.sum(tl.where(own, above, 0), 0)
        level = tl.sum(tl.where(own, bits, 0), 0).to(tl.int32)
        least = tl.load(whole + LEAST * sites + site).to(tl.int32)

        if bought + surely == size:
            tl.store(threshold + site, -1.0)
            tl.store(last + site, size - 1)
        elif bought + surely == 0:  # the next float above all
            beyond = high.to(tl.float32).to(tl.int32, bitcast=True) + 1
            beyond = tl.minimum(beyond, 0x7F7FFFFF).to(tl.float32, bitcast=True)
            tl.store(threshold + site, beyond.to(tl.float64))
            tl.store(last + site, tl.full([], -1, tl.int64))
        else:
            kept = tl.where(bought > 0, level, least).to(tl.float32, bitcast=True)
            tl.store(threshold + site, kept.to(tl.float64))
            final = size - 1
            if (bought > 0) & (bought < equal):
                final = find(ties, whole, sites, site, bought.to(tl.int32), level,
                             ELEMENT, CHUNK, BLOCK, SPAN).to(tl.int64)  # fmt: skip
            tl.store(last + site, final)


@triton.jit
def mark(owner, whole, partial, words, mu, slope, center, threshold, last, sites,
         chunks, COUNTS: tl.constexpr, ELEMENT: tl.constexpr, CHUNK: tl.constexpr,
         BLOCK: tl.constexpr):  # fmt: skip
    """Writes the hard masks, 32 entries a word; counts what is kept and what moved.

    Leaves ``sum m`` and ``sum h m`` of each chunk in `partial`.
    """
    chunk = tl.program_id(0)
    site = tl.load(owner + chunk)
    column = whole + site
    size = tl.load(column + SIZE * sites).to(tl.int32)
    address = tl.load(column + ADDRESS * sites)
    inner = tl.load(column + INNER * sites).to(tl.int32)
    outer = tl.load(column + OUTER * sites).to(tl.int32)
    start = (chunk - tl.load(column + FIRST * sites).to(tl.int32)) * CHUNK
    edge = tl.load(threshold + site).to(tl.float32)
    final = tl.load(last + site).to(tl.int32)
    steep = tl.load(slope + site).to(tl.float32)
    middle = tl.load(center + site).to(tl.float32)
    offset = tl.load(mu + site).to(tl.float32)
    soft = tl.zeros([BLOCK // 4], tl.float32)
    bought = tl.zeros([BLOCK // 4], tl.float32)
    count = tl.zeros([BLOCK // 32], tl.int32)
    moved = tl.zeros([BLOCK // 32], tl.int32)
    lane = tl.arange(0, 32)[None, :]
    for piece in range(CHUNK // BLOCK):
        first = start + piece * BLOCK
        a = magnitudes(address, first, size, ELEMENT, BLOCK)
        index = first + tl.arange(0, BLOCK)
        inside = index < size
        if outer > 1:
            index = logical(index, inner, outer)
        kept = inside & ((a > edge) | ((a == edge) & (index <= final)))
        m = tl.where(inside, sigmoid((a - middle) * steep + offset), 0.0)
        soft += fours(m)
        bought += fours(tl.where(kept, m, 0.0))
        flags = kept.to(tl.int32).reshape(BLOCK // 32, 32)
        place = words + chunk.to(tl.int64) * (CHUNK // 32) + piece * (BLOCK // 32)
        place += tl.arange(0, BLOCK // 32)
        count += tl.sum(flags, 1)
        if COUNTS:
            moved += tl.sum(((tl.load(place)[:, None] >> lane) & 1) ^ flags, 1)
        tl.debug_barrier()  # old words are read before new ones are written
        tl.store(place, tl.sum(flags << lane, 1))
    if COUNTS:
        tl.store(partial + chunk, tl.sum(soft.to(tl.float64), 0))
        tl.store(partial + chunks + chunk, tl.sum(bought.to(tl.float64), 0))
        total = tl.sum(count, 0).to(tl.int64)
        changed = tl.sum(moved, 0).to(tl.int64)
        tl.atomic_add(column + COUNT * sites, total, sem="relaxed")
        tl.atomic_add(column + MOVED * sites, changed, sem="relaxed")


@triton.jit
def summarise(whole, control, partial, dual, summary, sites, chunks,
              CHUNK: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Numbers about the step, for the host to read when it likes; one program a site.

    Sweeps, bad site and multiplier, then rows of one number a site: sums of the soft
    mask, of the soft mask over kept entries, entries kept, entries that moved.
    """
    site = tl.program_id(0)
    if site == 0:
        tl.store(summary, tl.load(control + SWEEPS).to(tl.float64))
        tl.store(summary + 1, tl.load(control + BAD).to(tl.float64))
        tl.store(summary + 2, tl.load(dual))
    column = whole + site
    count = tl.cdiv(tl.load(column + SIZE * sites), CHUNK)
    place = partial + tl.load(column + FIRST * sites)
    soft = tl.zeros([SPAN], tl.float64)
    bought = tl.zeros([SPAN], tl.float64)
    start = tl.full([], 0, tl.int32)
    while start < count:
        index = start + tl.arange(0, SPAN)
        soft += tl.load(place + index, mask=index < count, other=0.0)
        bought += tl.load(place + chunks + index, mask=index < count, other=0.0)
        start += SPAN
    row = summary + HEADER + site
    tl.store(row, tl.sum(soft, 0))
    tl.store(row + sites, tl.sum(bought, 0))
    tl.store(row + 2 * sites, tl.load(column + COUNT * sites).to(tl.float64))
    tl.store(row + 3 * sites, tl.load(column + MOVED * sites).to(tl.float64))
