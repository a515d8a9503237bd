"""The passes of the device solver over all weights: one launch each, every tensor.

A tensor is cut into chunks of `CHUNK` entries; one program does one chunk, whichever
tensor it belongs to. Nothing is concatenated: programs find their tensor's address in
a table. Each program leaves its sums in its own place, and later kernels add them in
the order of the chunks, so that two runs agree bit by bit; only integers are added by
atomics. Masks are evaluated in float32 exactly as the forward pass does.

Tables, one column a site (int64 ``whole``, float64 ``real``) or a chunk; `CONTROL` and
`REAL` hold the state of both searches, see `sparsefx.kernels.triton_solver`.
"""

from __future__ import annotations

import triton
import triton.language as tl

CHUNK = 32768  # entries of one program
BLOCK = 1024  # entries of one program at a time
BINS = 2048  # of one pass of the search for the cutoff

# Rows of the whole numbers of a site.
ADDRESS = tl.constexpr(0)
SIZE = tl.constexpr(1)
FIRST = tl.constexpr(2)  # its first chunk
INNER = tl.constexpr(3)  # channels_last: size of the dimension stored last, else 1
OUTER = tl.constexpr(4)  # channels_last: entries of one position, else 1
CLASS = tl.constexpr(5)  # which of the distinct prices it has
ACTIVE = tl.constexpr(6)  # 1 where masks are decided, 0 where all is kept
ABOVE = tl.constexpr(7)  # entries surely kept
TIED = tl.constexpr(8)  # entries at the cutoff
LEAST = tl.constexpr(9)  # bits of the least magnitude surely kept
VALUE = tl.constexpr(10)  # bits of the magnitude at the cutoff, -1 where none
COUNT = tl.constexpr(11)  # entries kept in the end
MOVED = tl.constexpr(12)  # mask entries that changed
WHOLE_ROWS = 13

# Rows of the real numbers of a site.
PRICE = tl.constexpr(0)
BILL = tl.constexpr(1)  # what an entry is charged with: the price, or 1 if all agree
SHARE = tl.constexpr(2)  # see `sparsefx.policies.magnitude_worths`
WORTH = tl.constexpr(3)
SUM = tl.constexpr(4)  # of magnitudes
LOW = tl.constexpr(5)
HIGH = tl.constexpr(6)
ODD = tl.constexpr(7)  # entries that are NaN or infinite
REAL_ROWS = 8

# The state of the searches: whole numbers.
HARD = tl.constexpr(0)
SOFT = tl.constexpr(1)
BASE = tl.constexpr(2)  # least key of the window
SHIFT = tl.constexpr(3)  # log2 of the keys of one bin
FLOOR = tl.constexpr(4)  # the cutoff's key is in [FLOOR, CEILING)
CEILING = tl.constexpr(5)
SWEEPS = tl.constexpr(6)
BAD = tl.constexpr(7)  # the first site with NaN or infinite entries, -1 where none
CONTROLS = 8

# The state of the searches: real numbers.
LIMIT = tl.constexpr(0)  # what may be spent by the hard mask, in bills
TARGET = tl.constexpr(1)  # what the soft mask costs
BETA = tl.constexpr(2)
NU = tl.constexpr(3)  # multiplier, counted from unit value REF
REF = tl.constexpr(4)
BOTTOM = tl.constexpr(5)  # the multiplier is in [BOTTOM, TOP]
TOP = tl.constexpr(6)
BEST = tl.constexpr(7)
GAP = tl.constexpr(8)  # of the best
STRIDE = tl.constexpr(9)  # size of the last Newton step
COST = tl.constexpr(10)  # of the soft masks
CUTOFF = tl.constexpr(11)  # unit value at which the budget ran out
REALS = 12

# Phases of HARD: done, searching, counting. Of SOFT: done, searching, evaluating the
# best multiplier once more, waiting for the cutoff.
DONE = tl.constexpr(0)
SEARCH = tl.constexpr(1)
SETTLE = tl.constexpr(2)
WAIT = tl.constexpr(3)

_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def magnitudes(address, first, size, ELEMENT: tl.constexpr, BLOCK: tl.constexpr):
    """``|w|`` in float32 from flat position `first` on; 0 past the end."""
    place = first + tl.arange(0, BLOCK)
    # Weights are 16-byte aligned (the table's maker checks): vector loads.
    base = tl.multiple_of(address.to(tl.pointer_type(ELEMENT)), 16)
    if first + BLOCK <= size:
        w = tl.load(base + place)
    else:
        w = tl.load(base + place, mask=place < size, other=0.0)
    return tl.abs(w.to(tl.float32))


@triton.jit
def fours(x):
    """Sums of four neighbours, which one thread holds: fewer registers to carry."""
    return tl.sum(x.reshape(x.shape[0] // 4, 4), 1)


@triton.jit
def sigmoid(x):
    """``1 / (1 + exp(-x))``, exactly 1 at inf and 0 at -inf."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def place_mask(nu, ref, beta, worth, price, low, high):
    """Slope, center and offset of a site's mask in float32, see
    `sparsefx.solver.soft_masks`."""
    slope = beta * worth / price
    half = ref * price / worth
    center = tl.minimum(tl.maximum(half - nu / slope, low), high).to(tl.float32)
    offset = (nu + slope * (center.to(tl.float64) - half)).to(tl.float32)
    return tl.minimum(slope, _LARGEST).to(tl.float32), center, offset


@triton.jit
def survey(owner, whole, partial, sites, chunks, ELEMENT: tl.constexpr,
           CHUNK: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Sum, range and odd entries of each chunk, in four rows of `partial`."""
    chunk = tl.program_id(0)
    site = tl.load(owner + chunk)
    size = tl.load(whole + SIZE * sites + site)
    address = tl.load(whole + ADDRESS * sites + site)
    start = (chunk - tl.load(whole + FIRST * sites + site)) * CHUNK
    total = tl.zeros([BLOCK // 4], tl.float32)
    low = tl.full([BLOCK // 4], float("inf"), tl.float32)
    high = tl.zeros([BLOCK // 4], tl.float32)
    odd = tl.zeros([BLOCK // 4], tl.int32)
    for piece in range(CHUNK // BLOCK):
        first = start + piece * BLOCK
        a = magnitudes(address, first, size, ELEMENT, BLOCK)
        inside = first + tl.arange(0, BLOCK) < size
        finite = a <= _LARGEST
        known = tl.where(finite, a, 0.0)
        total += fours(known)
        small = tl.where(inside & finite, a, float("inf")).reshape(BLOCK // 4, 4)
        low = tl.minimum(low, tl.min(small, 1))
        high = tl.maximum(high, tl.max(known.reshape(BLOCK // 4, 4), 1))
        odd += fours((finite == 0).to(tl.int32))
    tl.store(partial + chunk, tl.sum(total.to(tl.float64), 0))
    tl.store(partial + chunks + chunk, tl.min(low, 0).to(tl.float64))
    tl.store(partial + 2 * chunks + chunk, tl.max(high, 0).to(tl.float64))
    tl.store(partial + 3 * chunks + chunk, tl.sum(odd, 0).to(tl.float64))


@triton.jit
def gather(whole, real, partial, sites, chunks, CHUNK: tl.constexpr,
           WIDTH: tl.constexpr):  # fmt: skip
    """Adds up the survey of one site; one program a site."""
    site = tl.program_id(0)
    first = tl.load(whole + FIRST * sites + site)
    count = tl.cdiv(tl.load(whole + SIZE * sites + site), CHUNK)
    total = tl.zeros([WIDTH], tl.float64)
    low = tl.full([WIDTH], float("inf"), tl.float64)
    high = tl.zeros([WIDTH], tl.float64)
    odd = tl.zeros([WIDTH], tl.float64)
    start = tl.full([], 0, tl.int32)
    while start < count:
        index = start + tl.arange(0, WIDTH)
        here = index < count
        place = partial + first + index
        total += tl.load(place, mask=here, other=0.0)
        low = tl.minimum(low, tl.load(place + chunks, mask=here, other=float("inf")))
        high = tl.maximum(high, tl.load(place + 2 * chunks, mask=here, other=0.0))
        odd += tl.load(place + 3 * chunks, mask=here, other=0.0)
        start += WIDTH
    tl.store(real + SUM * sites + site, tl.sum(total, 0))
    tl.store(real + LOW * sites + site, tl.min(low, 0))
    tl.store(real + HIGH * sites + site, tl.max(high, 0))
    tl.store(real + ODD * sites + site, tl.sum(odd, 0))


@triton.jit
def sweep(owner, whole, real, control, state, partial, ties, tally, sites, chunks,
          ELEMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
          BINS: tl.constexpr):  # fmt: skip
    """What both searches need to know of one chunk, in one read of it.

    The soft search needs ``sum m`` and ``sum m (1 - m)``. The search for the cutoff
    counts unit values by key, the bits of ``worth |w| / price`` in float64: entries
    above its window, and entries in each bin of the window. When it settles, it wants
    what is surely kept and what lies at the cutoff.
    """
    hard = tl.load(control + HARD)
    soft = tl.load(control + SOFT)
    soft = (soft == SEARCH) | (soft == SETTLE)
    chunk = tl.program_id(0)
    site = tl.load(owner + chunk)
    active = tl.load(whole + ACTIVE * sites + site)
    if (active == 0) | ((hard == DONE) & (soft == 0)):
        return
    size = tl.load(whole + SIZE * sites + site)
    address = tl.load(whole + ADDRESS * sites + site)
    start = (chunk - tl.load(whole + FIRST * sites + site)) * CHUNK
    price = tl.load(real + PRICE * sites + site)
    worth = tl.load(real + WORTH * sites + site)
    rate = worth / price
    slope, center, offset = place_mask(
        tl.load(state + NU), tl.load(state + REF), tl.load(state + BETA), worth, price,
        tl.load(real + LOW * sites + site), tl.load(real + HIGH * sites + site),
    )  # fmt: skip
    base = tl.load(control + BASE)
    shift = tl.load(control + SHIFT)
    floor = tl.load(control + FLOOR)
    ceiling = tl.load(control + CEILING)
    bins = tally + tl.load(whole + CLASS * sites + site) * (BINS + 1)
    one = tl.full([BLOCK], 1, tl.int32)
    kept = tl.zeros([BLOCK // 4], tl.float32)
    spread = tl.zeros([BLOCK // 4], tl.float32)
    above = tl.zeros([BLOCK // 4], tl.int32)
    tied = tl.zeros([BLOCK // 4], tl.int32)
    least = tl.full([BLOCK // 4], 0x7FFFFFFF, tl.int32)
    value = tl.full([BLOCK // 4], -1, tl.int32)
    for piece in range(CHUNK // BLOCK):
        first = start + piece * BLOCK
        a = magnitudes(address, first, size, ELEMENT, BLOCK)
        inside = first + tl.arange(0, BLOCK) < size
        if soft:
            m = tl.where(inside, sigmoid((a - center) * slope + offset), 0.0)
            kept += fours(m)
            spread += fours((1.0 - m) * m)
        if hard != DONE:
            key = (a.to(tl.float64) * rate).to(tl.int64, bitcast=True)
            if hard == SEARCH:
                bin = (key - base) >> shift
                above += fours((inside & (bin >= BINS)).to(tl.int32))
                found = inside & (bin >= 0) & (bin < BINS)
                tl.atomic_add(bins + bin.to(tl.int32), one, mask=found, sem="relaxed")
            else:
                bits = a.to(tl.int32, bitcast=True)
                over = inside & (key >= ceiling)
                here = inside & (key >= floor) & (key < ceiling)
                above += fours(over.to(tl.int32))
                tied += fours(here.to(tl.int32))
                low = tl.where(over, bits, 0x7FFFFFFF).reshape(BLOCK // 4, 4)
                high = tl.where(here, bits, -1).reshape(BLOCK // 4, 4)
                least = tl.minimum(least, tl.min(low, 1))
                value = tl.maximum(value, tl.max(high, 1))
    if soft:
        tl.store(partial + chunk, tl.sum(kept.to(tl.float64), 0))
        tl.store(partial + chunks + chunk, tl.sum(spread.to(tl.float64), 0))
    if hard == SEARCH:
        tl.atomic_add(bins + BINS, tl.sum(above, 0), sem="relaxed")
    if hard == SETTLE:
        column = whole + site
        equal = tl.sum(tied, 0)
        tl.store(ties + chunk, equal)
        tl.atomic_add(column + ABOVE * sites, tl.sum(above, 0).to(tl.int64),
                      sem="relaxed")  # fmt: skip
        tl.atomic_add(column + TIED * sites, equal.to(tl.int64), sem="relaxed")
        tl.atomic_min(column + LEAST * sites, tl.min(least, 0).to(tl.int64),
                      sem="relaxed")  # fmt: skip
        tl.atomic_max(column + VALUE * sites, tl.max(value, 0).to(tl.int64),
                      sem="relaxed")  # fmt: skip
