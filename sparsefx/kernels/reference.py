"""The kernels in plain torch, in pieces that stay in cache: the oracle of the others.

Also what runs where there is nothing faster: any device, any real dtype. See
`sparsefx.kernels.Kernels` for what the functions mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsefx.kernels import BINS, SoftSums, Survey, room
from sparsefx.kernels.bits import pack, unpack
from sparsefx.kernels.mask_rule import (
    MaskScalars,
    alone,
    hard_mask,
    magnitude,
    soft_mask,
)

CHUNK = 2**18  # entries of one piece of a sweep
_BITS = {torch.float32: (torch.int32, 16), torch.float64: (torch.int64, 48)}


def chunks(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Magnitudes of a weight in pieces, with the flat index of their start."""
    flat = weight.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        yield start, magnitude(flat[start : start + CHUNK])


def survey(
    weights: Sequence[Tensor], lows: Sequence[float], highs: Sequence[float]
) -> Survey:
    """See `Kernels.survey`."""
    numbers: list[Tensor] = []
    bands: list[Tensor | None] = []
    for weight, low, high in zip(weights, lows, highs, strict=True):
        rows = [torch.zeros(1, 4, dtype=torch.float64, device=weight.device)]
        found, left = [magnitude(weight.reshape(-1)[:0])], room(weight)
        for _, a in chunks(weight):
            over = a >= high
            if left >= 0:
                found.append(a[(a >= low) & ~over])
                left -= found[-1].numel()
            parts = (a.sum(), a.amin(), a.amax(), over.count_nonzero())
            rows.append(torch.stack([part.double() for part in parts])[None])
        table = torch.cat(rows)
        least = table[1:, 1].amin() if len(rows) > 1 else table[0, 1]
        total, count = table[:, 0].sum(), table[:, 3].sum()
        numbers.append(torch.stack([total, least, table[:, 2].amax(), count]))
        bands.append(torch.cat(found) if left >= 0 else None)
    sums, lowest, most, above = _columns(numbers, 4)
    counts = tuple(int(n) for n in above)
    edges = (tuple(lows), tuple(highs))
    return Survey(sums, lowest, most, counts, tuple(bands), edges)


def histogram(weight: Tensor) -> Tensor:
    """See `Kernels.histogram`."""
    bins = torch.zeros(BINS, dtype=torch.int64, device=weight.device)
    for _, a in chunks(weight):
        integer, shift = _BITS[a.dtype]
        keys = a.view(integer).bitwise_right_shift(shift).bitwise_and_(BINS - 1)
        bins += torch.bincount(keys, minlength=BINS)
    return bins


def distinct(bands: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """See `Kernels.distinct`."""
    values = [torch.empty(0, dtype=torch.float64)]
    counts = [torch.empty(0, dtype=torch.int64)]
    for band in bands:
        value, count = torch.unique(band.cpu(), return_counts=True)
        values.append(value.double().flip(0))
        counts.append(count.flip(0))
    return torch.cat(values), torch.cat(counts), [len(value) for value in values[1:]]


def find(weight: Tensor, value: float, nth: int) -> int:
    """See `Kernels.find`."""
    for start, a in chunks(weight):
        here = (a == value).nonzero()
        if len(here) >= nth:
            return start + int(here[nth - 1])
        nth -= len(here)
    return -1


def soft_sums(
    weights: Sequence[Tensor],
    slope: Sequence[float],
    center: Sequence[float],
    mu: Sequence[float],
    threshold: Sequence[float],
    last: Sequence[int],
) -> SoftSums:
    """See `Kernels.soft_sums`."""
    numbers = []
    for i, weight in enumerate(weights):
        rows = [weight.new_zeros(3, dtype=torch.float64)]
        for start, a in chunks(weight):
            m = soft_mask(a, slope[i], center[i], mu[i])
            bought = m[hard_mask(a, threshold[i], last[i], start)]
            parts = (m.sum(), ((1.0 - m) * m).sum(), bought.sum())
            rows.append(torch.stack(parts).double())
        numbers.append(torch.stack(rows).sum(0))
    return SoftSums(*_columns(numbers, 3))


def hard_masks(
    weights: Sequence[Tensor],
    threshold: Sequence[float],
    last: Sequence[int],
    into: Sequence[Tensor],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """See `Kernels.hard_masks`."""
    numbers = []
    for i, weight in enumerate(weights):
        pairs = [torch.zeros(2, dtype=torch.int64, device=weight.device)]
        for start, a in chunks(weight):
            kept = hard_mask(a, threshold[i], last[i], start)
            bits = pack(kept)
            old = into[i][start // 8 : start // 8 + len(bits)]
            moved = unpack(bits ^ old, kept.shape)
            pairs.append(torch.stack((kept.count_nonzero(), moved.count_nonzero())))
            old.copy_(bits)
        numbers.append(torch.stack(pairs).sum(0).double())
    counts, changes = _columns(numbers, 2)
    return tuple(map(int, counts)), tuple(map(int, changes))


def masked(weight: Tensor, bits: Tensor, scalars: MaskScalars, index: int) -> Tensor:
    """See `Kernels.masked`."""
    m = scalars.at(index).soft(magnitude(weight))
    out = weight * m.to(weight.dtype)
    return torch.where(unpack(bits, weight.shape), out, torch.zeros_like(out))


def masked_backward(
    grad: Tensor,
    weight: Tensor,
    scalars: MaskScalars,
    index: int,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `Kernels.masked_backward`."""
    a, own = magnitude(weight), scalars.at(index)
    m = own.soft(a)
    s = m * (1 - m)
    g = grad.to(a.dtype)
    total = (g * weight * s).sum(dtype=torch.float64)
    local = (g * (m + a * own.slope * s)).to(weight.dtype)
    found = local if into is None else into.copy_(local)
    return found, alone(total, scalars.mu, index)


def couple(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    factor: Tensor,
) -> None:
    """See `Kernels.couple`."""
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        m = soft_mask(magnitude(weight), slope[i], center[i], mu[i])
        grad.sub_(weight.sign() * (m * (1 - m) * factor[i]).to(weight.dtype))


def _columns(numbers: Sequence[Tensor], width: int) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers on a device as columns on the host: one transfer."""
    if not numbers:
        return ((),) * width
    rows: list[list[float]] = torch.stack(list(numbers)).tolist()
    return tuple(zip(*rows, strict=True))
