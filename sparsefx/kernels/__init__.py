"""The sweeps over weights that a step is made of: one table, several makers.

Every maker is a module with the functions of `Kernels`, with the same answers up to
rounding; `sparsefx.kernels.reference` says what they are, in plain torch on any device.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor

from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.torch_internals import is_plain

# By device type, where there is a faster one than the reference.
MAKERS = {"cpu": "sparsefx.kernels.cpu", "cuda": "sparsefx.kernels.triton_backend"}
REFERENCE = "sparsefx.kernels.reference"
SHARDS = "sparsefx.kernels.shards"
BINS = 2**15
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Survey:
    """What one sweep tells about each tensor, for a band of magnitudes of each.

    Attributes:
        sums: sum of magnitudes; not finite where an entry is not.
        lows: least magnitude, 0 of nothing.
        highs: greatest magnitude, 0 of nothing.
        above: entries at or above the band's upper end.
        bands: magnitudes inside the band, lower end included, in any order; None where
            they are too many to gather.
        edges: the bands' lower and upper ends.
    """

    sums: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    above: tuple[int, ...]
    bands: tuple[Tensor | None, ...]
    edges: tuple[tuple[float, ...], tuple[float, ...]]

    def of(self, places: Sequence[int]) -> Survey:
        """The survey of some of the tensors."""

        def pick(row: Sequence[_T]) -> tuple[_T, ...]:
            return tuple(row[i] for i in places)

        return Survey(
            sums=pick(self.sums),
            lows=pick(self.lows),
            highs=pick(self.highs),
            above=pick(self.above),
            bands=pick(self.bands),
            edges=(pick(self.edges[0]), pick(self.edges[1])),
        )


@dataclass(frozen=True, slots=True)
class SoftSums:
    """Sums over the soft mask ``m`` of each tensor.

    Attributes:
        kept: ``sum m``.
        spread: ``sum m (1 - m)``.
        bought: ``sum h m``, over the entries the hard mask keeps.
    """

    kept: tuple[float, ...]
    spread: tuple[float, ...]
    bought: tuple[float, ...]


class Kernels(Protocol):
    """The functions of a maker; one entry of each sequence a tensor.

    Tensors hold weights or their magnitudes: only ``|w|`` matters to masks. The soft
    mask is ``m = sigmoid(slope * (|w| - center) + mu)``; the hard mask ``h`` keeps what
    is above the threshold, or equal to it with a flat index of at most ``last``.
    """

    def survey(
        self, weights: Sequence[Tensor], lows: Sequence[float], highs: Sequence[float]
    ) -> Survey:
        """Sums, ranges, and the magnitudes in the bands ``[low, high)``."""

    def histogram(self, weight: Tensor) -> Tensor:
        """Counts by the upper 15 bits (below the sign) of the magnitudes; int64."""

    def distinct(self, bands: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """Distinct entries on the CPU, those of one band after the other.

        Returns:
            The entries as float64, the largest of each band first; how often each is
            in its band; and how many distinct ones each band has.
        """

    def find(self, weight: Tensor, value: float, nth: int) -> int:
        """Flat index of the nth entry (from 1) of that magnitude, or -1."""

    def soft_sums(
        self,
        weights: Sequence[Tensor],
        slope: Sequence[float],
        center: Sequence[float],
        mu: Sequence[float],
        threshold: Sequence[float],
        last: Sequence[int],
    ) -> SoftSums:
        """One evaluation of the soft masks."""

    def hard_masks(
        self,
        weights: Sequence[Tensor],
        threshold: Sequence[float],
        last: Sequence[int],
        into: Sequence[Tensor],
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Writes masks as `sparsefx.kernels.bits`; how many are kept, how many have
        changed."""

    def masked(
        self, weight: Tensor, bits: Tensor, scalars: MaskScalars, index: int
    ) -> Tensor:
        """``h m w``, with ``h`` as `sparsefx.kernels.bits`; the scalars are those of
        all sites, of which this is one."""

    def masked_backward(
        self,
        grad: Tensor,
        weight: Tensor,
        scalars: MaskScalars,
        index: int,
        into: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The local gradient and that of ``mu``; see
        `sparsefx.masking.masked_weight`. The first is written `into` a tensor, which
        may be `grad`, or else a new one."""

    def couple(
        self,
        weights: Sequence[Tensor],
        grads: Sequence[Tensor],
        mu: Tensor,
        slope: Tensor,
        center: Tensor,
        factor: Tensor,
    ) -> None:
        """Subtracts ``sign(w) factor m (1 - m)`` from every gradient, in place."""


_forced: list[str] = []


def room(weight: Tensor) -> int:
    """Most magnitudes of a band that are gathered; all of a small tensor's."""
    return max(4096, weight.numel() // 16)


def kernels_for(tensors: Sequence[Tensor]) -> Kernels:
    """The fastest maker for these tensors together.

    Example:
        >>> import torch
        >>> kernels_for([torch.ones(2, dtype=torch.complex64)]).__name__
        'sparsefx.kernels.reference'
    """
    if tensors and not isinstance(tensors[0], Tensor):
        return cast(Kernels, _maker(SHARDS))
    name = MAKERS.get(tensors[0].device.type, REFERENCE) if tensors else REFERENCE
    name = _forced[-1] if _forced else name
    if name != REFERENCE and is_plain(*tensors):
        maker = _maker(name)
        if maker.usable(tensors):
            return cast(Kernels, maker)
    return cast(Kernels, _maker(REFERENCE))


@functools.cache
def _maker(name: str) -> Any:
    return importlib.import_module(name)


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Takes all kernels from one maker, where it can; for tests and benchmarks."""
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()
