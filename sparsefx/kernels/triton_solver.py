r"""The decisions of the device solver, between its sweeps; nothing waits for the host.

Two searches share the sweeps of `sparsefx.kernels.triton_sweeps`:

* The hard one looks for the unit value at which the budget runs out, in the bits of
  float64 read as integers. A pass cuts its window into bins and keeps the one in which
  the money ends; when that is so narrow that no site has two magnitudes in it, the
  rows left are the sites' entries of one magnitude each, and the greedy purchase of
  `sparsefx.solver.hard_masks` is finished exactly: by unit value, site, index.
* The soft one is the safeguarded Newton of `sparsefx.solver.projection`, step by step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsefx.kernels.triton_sweeps import (
    ABOVE,
    ACTIVE,
    BAD,
    BASE,
    BEST,
    BETA,
    BOTTOM,
    CEILING,
    COST,
    CUTOFF,
    DONE,
    FLOOR,
    GAP,
    HARD,
    HIGH,
    LEAST,
    LIMIT,
    LOW,
    NU,
    ODD,
    PRICE,
    REF,
    SEARCH,
    SETTLE,
    SHARE,
    SHIFT,
    SIZE,
    SOFT,
    STRIDE,
    SUM,
    SWEEPS,
    TARGET,
    TIED,
    TOP,
    VALUE,
    WAIT,
    WORTH,
)

# A window this wide holds at most one product of a float32 and a rate: neighbours
# differ by 2**-24 of their value, which is at least 2**28 float64 patterns.
_NARROW = tl.constexpr(1 << 27)
_INF = tl.constexpr(float("inf"))


@triton.jit
def exponent(number):
    """``floor(log2(number))`` of a positive float64."""
    return (number.to(tl.int64, bitcast=True) >> 52) - 1023


@triton.jit
def bracket(real, state, sites, column, active, ref, capacity, PAD: tl.constexpr):
    """Starts the soft search: all multipliers counted from unit value `ref`.

    If every m is at most d, the cost is at most d capacity; if every m is at least d,
    it is at least that. With the extreme exponents this brackets the multiplier.
    """
    price = tl.load(real + PRICE * sites + column, mask=active, other=1.0)
    worth = tl.load(real + WORTH * sites + column, mask=active, other=1.0)
    low = tl.load(real + LOW * sites + column, mask=active, other=0.0)
    high = tl.load(real + HIGH * sites + column, mask=active, other=0.0)
    target = tl.load(state + TARGET)
    slope = tl.load(state + BETA) * worth / price
    half = ref * price / worth
    least = tl.min(tl.where(active, slope * (low - half), _INF), 0)
    most = tl.max(tl.where(active, slope * (high - half), -_INF), 0)
    even = tl.log(target) - tl.log(capacity - target)
    bottom, top = even - most - PAD, even - least + PAD
    start = tl.minimum(tl.maximum(0.0, bottom), top)
    tl.store(state + REF, ref)
    tl.store(state + NU, start)
    tl.store(state + BEST, start)
    tl.store(state + BOTTOM, bottom)
    tl.store(state + TOP, top)
    tl.store(state + GAP, _INF)
    tl.store(state + STRIDE, _INF)


@triton.jit
def begin(whole, real, control, state, dual, sites, NORMALIZE: tl.constexpr,
          PAD: tl.constexpr, BINS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Worths, the first window and the first multiplier; one program.

    The window lies around the last cutoff; without one it spans 32 powers of two. The
    multiplier starts at the last one, for this beta; without one both start afresh,
    so that a run that was interrupted goes on as if it had not been.
    """
    column = tl.arange(0, WIDTH)
    here = column < sites
    size = tl.load(whole + SIZE * sites + column, mask=here, other=0)
    price = tl.load(real + PRICE * sites + column, mask=here, other=0.0)
    total = tl.load(real + SUM * sites + column, mask=here, other=0.0)
    high = tl.load(real + HIGH * sites + column, mask=here, other=0.0)
    odd = tl.load(real + ODD * sites + column, mask=here, other=0.0)
    active = tl.load(whole + ACTIVE * sites + column, mask=here, other=0) != 0
    paid = price > 0
    number = size.to(tl.float64)

    worth = tl.load(real + SHARE * sites + column, mask=here, other=1.0)
    if NORMALIZE == 2:  # by layer: a mean magnitude of 0 counts as 1
        mean = total / tl.maximum(number, 1.0)
        worth = worth / tl.where(mean > 0, mean, 1.0)
    if NORMALIZE >= 1:
        value = tl.where(paid, worth * total / tl.where(paid, price, 1.0), 0.0)
        value = tl.sum(value, 0)
        count = tl.sum(tl.where(paid, number, 0.0), 0)
        worth = worth * count / tl.where(value > 0, value, count)
    tl.store(real + WORTH * sites + column, worth, mask=here)
    tl.store(whole + ABOVE * sites + column, tl.zeros_like(size), mask=here)
    tl.store(whole + TIED * sites + column, tl.zeros_like(size), mask=here)
    tl.store(whole + LEAST * sites + column, tl.full([WIDTH], 0x7FFFFFFF, tl.int64),
             mask=here)  # fmt: skip
    tl.store(whole + VALUE * sites + column, tl.full([WIDTH], -1, tl.int64), mask=here)
    bad = tl.min(tl.where(here & (odd > 0), column, WIDTH), 0)
    tl.store(control + BAD, tl.where(bad < WIDTH, bad, -1).to(tl.int64))
    tl.debug_barrier()  # worths are read by other threads below

    mu, old = tl.load(dual), tl.load(dual + 1)
    known = (tl.abs(mu) < _INF) & (old > 0)
    rate = worth / tl.where(paid, price, 1.0)
    largest = tl.max(tl.where(active, high * rate, 0.0), 0)
    cutoff = tl.load(state + CUTOFF)
    if known & (cutoff > 0) & (cutoff < _INF):
        # about 3 % to both sides
        base = cutoff.to(tl.int64, bitcast=True) - (tl.full([], BINS, tl.int64) << 36)
        tl.store(control + SHIFT, tl.full([], 37, tl.int64))
    else:
        end = largest.to(tl.int64, bitcast=True) + 1
        base = end - (tl.full([], BINS, tl.int64) << 46)
        tl.store(control + SHIFT, tl.full([], 46, tl.int64))
    tl.store(control + BASE, tl.maximum(base, 0))
    tl.store(control + FLOOR, tl.full([], 0, tl.int64))
    tl.store(control + CEILING, tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64))
    tl.store(control + SWEEPS, tl.full([], 0, tl.int64))

    capacity = tl.sum(tl.where(active, price * number, 0.0), 0)
    if known & (tl.load(state + TARGET) < capacity):
        bracket(real, state, sites, column, active, -mu / old, capacity, PAD)
    soft = tl.where(known, SEARCH, WAIT)
    finite = bad >= WIDTH
    tl.store(control + HARD, tl.where(finite, SEARCH, DONE).to(tl.int64))
    tl.store(control + SOFT, tl.where(finite, soft, DONE).to(tl.int64))


@triton.jit
def update(owner, whole, real, bills, control, state, partial, tally, sites, chunks,
           classes, rtol: tl.constexpr, CLOSE: tl.constexpr, PAD: tl.constexpr,
           BINS: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Moves both searches on after a sweep; one program.

    With `CLOSE` the next sweep is the last: it evaluates the best multiplier seen.
    """
    hard = tl.load(control + HARD)
    soft = tl.load(control + SOFT)
    if (hard == DONE) & (soft == DONE):
        return
    column = tl.arange(0, WIDTH)
    here = column < sites
    active = tl.load(whole + ACTIVE * sites + column, mask=here, other=0) != 0
    size = tl.load(whole + SIZE * sites + column, mask=here, other=0)
    price = tl.load(real + PRICE * sites + column, mask=here, other=0.0)
    capacity = tl.sum(tl.where(active, price * size.to(tl.float64), 0.0), 0)
    tl.store(control + SWEEPS, tl.load(control + SWEEPS) + 1)
    if (soft == SEARCH) | (soft == SETTLE):
        newton(owner, real, control, state, partial, sites, chunks, capacity, soft,
               rtol, CLOSE, SPAN)  # fmt: skip
    if hard == SEARCH:
        narrow(bills, control, state, tally, classes, BINS)
    elif hard == SETTLE:
        cutoff = tl.load(state + CUTOFF)
        tl.store(control + HARD, tl.full([], DONE, tl.int64))
        if soft == WAIT:
            bracket(real, state, sites, column, active, cutoff, capacity, PAD)
            tl.store(control + SOFT, tl.full([], SEARCH, tl.int64))


@triton.jit
def narrow(bills, control, state, tally, classes, BINS: tl.constexpr):
    """Replaces the window by the bin in which the money ends."""
    bins = tl.arange(0, BINS)
    cost = tl.zeros([BINS], tl.float64)
    above = tl.full([], 0.0, tl.float64)
    number = tl.full([], 0, tl.int32)
    while number < classes:
        bill = tl.load(bills + number)
        place = tally + number * (BINS + 1)
        count = tl.load(place + bins)
        cost += bill * count.to(tl.float64)
        above += bill * tl.load(place + BINS).to(tl.float64)
        tl.store(place + bins, tl.zeros_like(count))
        tl.debug_barrier()  # the last count is read by all threads before it is cleared
        tl.store(place + BINS, 0)
        number += 1
    limit = tl.load(state + LIMIT)
    down = above + tl.cumsum(cost, 0, reverse=True)
    bin = (tl.sum((down > limit).to(tl.int32), 0) - 1).to(tl.int64)

    base = tl.load(control + BASE)
    shift = tl.load(control + SHIFT)
    floor = tl.load(control + FLOOR)
    ceiling = tl.load(control + CEILING)
    # The window may end beyond the largest pattern: compare distances, not ends.
    over, under = above > limit, bin < 0
    first = tl.where(over, BINS, tl.maximum(bin, 0))
    rest = ceiling - base
    low = tl.where((rest >> shift) >= first, base + (first << shift), ceiling)
    ahead = tl.where(over, BINS, first + 1)
    fits = (over == 0) & ((rest >> shift) >= ahead)
    high = tl.where(fits, base + (ahead << shift), ceiling)
    high = tl.where(under & (base > floor), base, high)
    low = tl.where(under & (base > floor), floor, tl.maximum(low, floor))
    low = tl.minimum(low, high - 1)
    width = high - low
    tl.debug_barrier()  # all threads have read what is written now
    tl.store(control + BASE, low)
    tl.store(control + FLOOR, low)
    tl.store(control + CEILING, high)
    bins = exponent(tl.full([], BINS, tl.float64))
    shift = exponent(width.to(tl.float64)) + 1 - bins
    tl.store(control + SHIFT, tl.maximum(shift, 0))
    if width <= _NARROW:
        tl.store(control + HARD, tl.full([], SETTLE, tl.int64))
        tl.store(state + CUTOFF, low.to(tl.float64, bitcast=True))


@triton.jit
def newton(owner, real, control, state, partial, sites, chunks, capacity, soft,
           rtol: tl.constexpr, CLOSE: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """One step of `sparsefx.solver.projection.solve_multiplier`."""
    costs = tl.zeros([SPAN], tl.float64)
    spreads = tl.zeros([SPAN], tl.float64)
    start = tl.full([], 0, tl.int32)
    while start < chunks:
        chunk = start + tl.arange(0, SPAN)
        here = chunk < chunks
        site = tl.load(owner + chunk, mask=here, other=0)
        price = tl.load(real + PRICE * sites + site, mask=here, other=0.0)
        costs += price * tl.load(partial + chunk, mask=here, other=0.0)
        spreads += price * tl.load(partial + chunks + chunk, mask=here, other=0.0)
        start += SPAN
    cost, spread = tl.sum(costs, 0), tl.sum(spreads, 0)

    target = tl.load(state + TARGET)
    nu = tl.load(state + NU)
    low = tl.load(state + BOTTOM)
    high = tl.load(state + TOP)
    stride = tl.load(state + STRIDE)
    gap, least = tl.abs(cost - target), tl.load(state + GAP)
    best = tl.where(gap < least, nu, tl.load(state + BEST))
    tl.debug_barrier()  # all threads have read what is written now
    tl.store(state + BEST, best)
    tl.store(state + GAP, tl.minimum(gap, least))

    rest = capacity - cost
    inner = (cost > 0) & (rest > 0)  # else only the side of the target is known
    some = tl.where(inner, cost, 1.0)
    other = tl.where(inner, rest, 1.0)
    even = tl.log(target) - tl.log(capacity - target)
    step = tl.where(inner, even - (tl.log(some) - tl.log(other)), 0.0)
    safe = nu + step
    curved = inner & (spread > 0)
    slope = tl.where(curved, (cost / capacity) * (rest / spread), 1.0)
    guess = nu + step * slope
    if cost < target:
        low = tl.maximum(low, safe)
        guess = tl.maximum(guess, safe)
    else:
        high = tl.minimum(high, safe)
        guess = tl.minimum(guess, safe)
    taken = curved & (tl.abs(step) <= 0.5 * stride) & (low <= guess) & (guess <= high)
    guess = tl.where(taken, guess, 0.5 * (low + high))
    tl.store(state + STRIDE, tl.where(taken, tl.abs(step), _INF))
    tl.store(state + BOTTOM, low)
    tl.store(state + TOP, high)
    met = (gap <= rtol * target) | (soft == SETTLE)
    stuck = (guess == nu) | CLOSE
    finished = met | (stuck & (best == nu))
    tl.store(state + NU, tl.where(finished, nu, tl.where(stuck, best, guess)))
    tl.store(state + COST, cost)
    phase = tl.where(finished, DONE, tl.where(stuck, SETTLE, SEARCH))
    tl.store(control + SOFT, phase.to(tl.int64))
