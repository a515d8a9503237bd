"""The kernels compiled for this processor (`cpu.cpp`): float32, any number of threads.

One call a sweep for all tensors together, so that small layers cost little; threads
share the chunks, and the answers do not depend on how many there are.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import BINS, SoftSums, Survey, room
from sparsefx.kernels.compile_cpu import library
from sparsefx.kernels.mask_rule import MaskScalars

_Long, _Float, _Double = ctypes.c_int64, ctypes.c_float, ctypes.c_double


class _Mask(ctypes.Structure):
    _fields_ = (("slope", _Float), ("center", _Float), ("mu", _Float))


def usable(tensors: Sequence[Tensor]) -> bool:
    """Whether these tensors can be swept by the compiled kernels here."""
    return (
        all(
            t.dtype is torch.float32 and t.is_contiguous() and t.is_cpu for t in tensors
        )
        and library() is not None
    )


def survey(
    weights: Sequence[Tensor], lows: Sequence[float], highs: Sequence[float]
) -> Survey:
    """See `Kernels.survey`."""
    count = len(weights)
    bands = [torch.empty(min(room(w), w.numel())) for w in weights]
    sums, ends = (_Double * (3 * count))(), (ctypes.c_int32 * (2 * count))()
    _call(
        "survey",
        weights,
        _floats(lows),
        _floats(highs),
        _places(bands),
        _longs([len(band) for band in bands]),
        sums,
        ends,
    )
    found = [int(n) for n in sums[2::3]]
    least = torch.frombuffer(ends, dtype=torch.float32) if count else torch.empty(0)
    ranges: list[float] = least.double().tolist()
    sizes = [w.numel() for w in weights]
    return Survey(
        sums=tuple(sums[0::3]),
        lows=tuple(x if n else 0.0 for x, n in zip(ranges[0::2], sizes, strict=True)),
        highs=tuple(ranges[1::2]),
        above=tuple(int(n) for n in sums[1::3]),
        bands=tuple(
            band[:n] if n <= len(band) else None
            for band, n in zip(bands, found, strict=True)
        ),
        edges=(tuple(lows), tuple(highs)),
    )


def histogram(weight: Tensor) -> Tensor:
    """See `Kernels.histogram`."""
    bins = torch.zeros(BINS, dtype=torch.int64)
    _library().histogram(_place(weight), _Long(weight.numel()), _place(bins))
    return bins


def distinct(bands: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """See `Kernels.distinct`; sorts the bands."""
    sizes = [len(band) for band in bands]
    values = torch.empty(sum(sizes), dtype=torch.float64)
    counts = torch.empty(sum(sizes), dtype=torch.int64)
    found = (_Long * len(sizes))()
    _library().distinct(
        _Long(len(sizes)),
        _places(bands),
        _longs(sizes),
        _place(values),
        _place(counts),
        found,
    )
    lengths = list(found)
    total = sum(lengths)
    return values[:total], counts[:total], lengths


def find(weight: Tensor, value: float, nth: int) -> int:
    """See `Kernels.find`."""
    size = _Long(weight.numel())
    return int(_library().find(_place(weight), size, _Float(value), _Long(nth)))


def soft_sums(
    weights: Sequence[Tensor],
    slope: Sequence[float],
    center: Sequence[float],
    mu: Sequence[float],
    threshold: Sequence[float],
    last: Sequence[int],
) -> SoftSums:
    """See `Kernels.soft_sums`."""
    sums = (_Double * (3 * len(weights)))()
    rules = (_floats(threshold), _longs(last))
    _call("soft_sums", weights, _masks(slope, center, mu), *rules, sums)
    return SoftSums(tuple(sums[0::3]), tuple(sums[1::3]), tuple(sums[2::3]))


def hard_masks(
    weights: Sequence[Tensor],
    threshold: Sequence[float],
    last: Sequence[int],
    into: Sequence[Tensor],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """See `Kernels.hard_masks`."""
    sums = (_Double * (2 * len(weights)))()
    rules = (_floats(threshold), _longs(last))
    _call("hard_masks", weights, *rules, _places(into), sums)
    return tuple(int(n) for n in sums[0::2]), tuple(int(n) for n in sums[1::2])


def masked(weight: Tensor, bits: Tensor, scalars: MaskScalars, index: int) -> Tensor:
    """See `Kernels.masked`."""
    out = torch.empty_like(weight)
    _library().masked(
        torch.get_num_threads(),
        weight.data_ptr(),
        weight.numel(),
        *_rule(scalars, index),
        bits.data_ptr(),
        out.data_ptr(),
    )
    return out


def masked_backward(
    grad: Tensor,
    weight: Tensor,
    scalars: MaskScalars,
    index: int,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `Kernels.masked_backward`."""
    out = torch.empty_like(weight) if into is None else into
    grad = grad.contiguous()
    total = torch.zeros(len(scalars.mu), dtype=torch.float64)
    _library().masked_backward(
        torch.get_num_threads(),
        weight.data_ptr(),
        weight.numel(),
        *_rule(scalars, index),
        grad.data_ptr(),
        out.data_ptr(),
        total.data_ptr() + 8 * index,
    )
    return out, total


def couple(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    mu: Tensor,
    slope: Tensor,
    center: Tensor,
    factor: Tensor,
) -> None:
    """See `Kernels.couple`."""
    sizes = _longs([w.numel() for w in weights])
    _library().couple(
        _Long(len(weights)),
        _threads(),
        _places(weights),
        _places(grads),
        sizes,
        _masks(slope.tolist(), center.tolist(), mu.tolist()),
        _floats(factor.tolist()),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "`usable` has been asked"
    found.find.restype = _Long
    pointer = ctypes.c_void_p
    found.masked.argtypes = (_Long, pointer, _Long, *[pointer] * 5)
    found.masked_backward.argtypes = (_Long, pointer, _Long, *[pointer] * 6)
    return found


def _call(name: str, weights: Sequence[Tensor], *rest: Any) -> None:
    """Calls a sweep over all tensors."""
    sizes = _longs([w.numel() for w in weights])
    sweep = getattr(_library(), name)
    sweep(_Long(len(weights)), _threads(), _places(weights), sizes, *rest)


def _rule(scalars: MaskScalars, index: int) -> list[int]:
    """Where a site's scalars lie: all are numbers of eight bytes."""
    assert scalars.mu.dtype is torch.float64
    return [vector.data_ptr() + 8 * index for vector in scalars]


def _threads() -> ctypes.c_int64:
    return _Long(torch.get_num_threads())


def _place(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _places(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _floats(numbers: Sequence[float]) -> Any:
    return (_Float * len(numbers))(*numbers)


def _longs(numbers: Sequence[int]) -> Any:
    return (_Long * len(numbers))(*numbers)


def _masks(slope: Sequence[float], center: Sequence[float], mu: Sequence[float]) -> Any:
    rows = [_Mask(*row) for row in zip(slope, center, mu, strict=True)]
    return (_Mask * len(rows))(*rows)
