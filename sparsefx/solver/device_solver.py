"""A step of the masks on the device that holds the weights; the host never waits.

One survey of all weights gives their scales; then at most `ROUNDS` sweeps move two
searches on, for the cutoff of the hard masks and for the multiplier of the soft ones
(`sparsefx.kernels.triton_solver`); sweeps enqueued after both have ended return at
once. The mask parameters are written where the forward pass reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels import triton_rules as rules
from sparsefx.kernels import triton_solver as solver
from sparsefx.kernels import triton_sweeps as sweeps
from sparsefx.kernels.tensor_layout import layout, pieces, readable
from sparsefx.kernels.triton_backend import element, to_device
from sparsefx.solver.projection import BUDGET_SLACK

ROUNDS = 12
NORMALIZE = {"none": 0, "global": 1, "layer": 2}
VECTORS = ("mu", "slope", "center", "threshold", "last", "price", "spread", "group")
_SPAN = 256
_PAD = 1e-3  # as `sparsefx.solver.projection` widens the bracket
_RTOL = 0.25e-6


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step did; one entry of each tuple a site.

    Attributes:
        sweeps: rounds in which a search was still under way.
        bad: the first site with NaN or infinite entries, -1 where none.
        mu: the shared multiplier.
        soft: ``sum m``.
        bought: ``sum m`` over the entries the hard mask keeps.
        counts: entries kept.
        moved: mask entries that changed.
    """

    sweeps: int
    bad: int
    mu: float
    soft: tuple[float, ...]
    bought: tuple[float, ...]
    counts: tuple[int, ...]
    moved: tuple[int, ...]

    @classmethod
    def of(cls, summary: Tensor) -> Seen:
        """Reads what `DeviceSolver.observe` left."""
        sweeps, bad, mu, *rest = summary.tolist()
        sites = len(rest) // 4
        soft, bought, counts, moved = (
            tuple(rest[row * sites : (row + 1) * sites]) for row in range(4)
        )
        whole = (tuple(map(int, row)) for row in (counts, moved))
        return cls(int(sweeps), int(bad), mu, soft, bought, *whole)


class DeviceSolver:
    """Finds the masks of a group of weights on their device.

    It solves the problem of `sparsefx.solver.soft_masks` with no bounds but 0 and the
    size, for a group that is `readable` together. Results agree with the host's: hard
    masks entry by entry, soft ones to rounding. Everything is added in a fixed order.

    Attributes:
        spent: cost of the weights that are kept whatever happens.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        prices: Sequence[float],
        shares: Sequence[float],
        normalize: str,
        active: Sequence[bool],
        *,
        chunk: int = sweeps.CHUNK,
        block: int = sweeps.BLOCK,
    ) -> None:
        """Prepares the tables.

        Args:
            weights: one tensor a site; `readable` together.
            prices: cost of one kept entry of each site.
            shares: what worths are before they are scaled, see
                `sparsefx.policies.magnitude_worths`; the worths themselves for
                ``"none"``.
            normalize: ``"layer"``, ``"global"`` or ``"none"``.
            active: where masks are decided; elsewhere all is kept. These have prices
                above 0 and entries.
            chunk: entries of one program.
            block: entries of a program at a time; divides `chunk`.
        """
        assert readable(weights), "the caller asks `readable` first"
        self.device = weights[0].device
        self.numels = [w.numel() for w in weights]
        self.prices, self.active = list(prices), list(active)
        self.spent = math.fsum(
            p * n
            for p, n, free in zip(prices, self.numels, active, strict=True)
            if not free
        )
        free = [i for i, yes in enumerate(active) if yes]
        distinct = sorted({prices[i] for i in free})
        # One price: whole entries are counted, and nothing rounds.
        self.unit = distinct[0] if len(distinct) == 1 else 1.0
        bills = [prices[i] / self.unit for i in range(len(weights))]
        bills = [1.0] * len(weights) if len(distinct) == 1 else bills
        cut = pieces(self.numels, chunk)
        self.leader = free[0] if free else 0
        self.sizes: dict[str, Any] = {
            "ELEMENT": element(weights[0].dtype), "CHUNK": chunk, "BLOCK": block
        }  # fmt: skip
        self.sites, self.chunks = len(weights), len(cut.owner)
        self.width = 1 << max(self.sites - 1, 1).bit_length()
        whole = torch.zeros(sweeps.WHOLE_ROWS, self.sites, dtype=torch.int64)
        whole[_row(sweeps.SIZE)] = torch.tensor(self.numels)
        whole[_row(sweeps.FIRST)] = torch.tensor(cut.first)
        classes = {price: number for number, price in enumerate(distinct)}
        whole[_row(sweeps.CLASS)] = torch.tensor([classes.get(p, 0) for p in prices])
        whole[_row(sweeps.ACTIVE)] = torch.tensor(active)
        for i, weight in enumerate(weights):
            found = layout(weight)
            assert found is not None
            whole[_row(sweeps.INNER), i] = found.inner
            whole[_row(sweeps.OUTER), i] = found.outer
        real = torch.zeros(sweeps.REAL_ROWS, self.sites, dtype=torch.float64)
        rows = ((sweeps.PRICE, prices), (sweeps.BILL, bills), (sweeps.SHARE, shares))
        for row, values in rows:
            real[_row(row)] = torch.tensor(values, dtype=torch.float64)
        self.normalize = NORMALIZE[normalize]
        self.whole, self.real = whole.to(self.device), real.to(self.device)
        self.owner = cut.owner.to(self.device)
        own = [1.0] if len(distinct) == 1 else distinct
        self.bills = torch.tensor(own, dtype=torch.float64, device=self.device)
        self.addresses: tuple[int, ...] = ()

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.control = zeros(sweeps.CONTROLS)
        self.control[_row(sweeps.BAD)] = -1
        self.state = zeros(sweeps.REALS, dtype=torch.float64)
        self.partial = zeros(4, self.chunks, dtype=torch.float64)
        self.ties = zeros(self.chunks, dtype=torch.int32)
        bins = (max(len(distinct), 1), sweeps.BINS + 1)
        self.tally = zeros(*bins, dtype=torch.int32)
        self.words = zeros(self.chunks * (chunk // 32), dtype=torch.int32)
        self.marked = False

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether the tables speak of these weights, wherever they lie now."""
        return readable(weights) and (
            [w.numel() for w in weights] == self.numels
            and weights[0].device == self.device
            and element(weights[0].dtype) == self.sizes["ELEMENT"]
        )

    @torch.no_grad()
    def solve(
        self,
        weights: Sequence[Tensor],
        budget: float,
        beta: float,
        into: Mapping[str, Tensor],
        rounds: int = ROUNDS,
    ) -> None:
        """Finds the masks for a budget and writes their parameters.

        Where a weight is not finite nothing is written, and `observe` says so.

        Args:
            weights: the weights, as they were given first.
            budget: cost allowed for all sites, above `spent`.
            beta: inverse temperature.
            into: the vectors of `sparsefx.masking.sparse_state.SparseState`, by name,
                and ``dual``, from which the multiplier starts.
            rounds: sweeps to take at most.
        """
        self._locate(weights)
        if not self.marked:
            self._mark(into, counts=False)
        money = budget - self.spent
        limit = money * (1.0 + BUDGET_SLACK)
        charges = self.prices
        if self.bills.numel() == 1:
            limit, charges = float(math.floor(limit / self.unit)), [1.0] * self.sites
        total = math.fsum(
            p * n
            for p, n, free in zip(charges, self.numels, self.active, strict=True)
            if free
        )
        everything = total <= limit
        for row, value in (
            (sweeps.LIMIT, limit), (sweeps.TARGET, money), (sweeps.BETA, beta)
        ):  # fmt: skip
            self.state[_row(row)].fill_(value)
        grid, each, one = (self.chunks,), (self.sites,), (1,)
        tables = (self.owner, self.whole, self.real)
        solving = (self.control, self.state)
        extent = (self.sites, self.chunks)
        sweeps.survey[grid](self.owner, self.whole, self.partial, *extent, **self.sizes)
        sweeps.gather[each](
            self.whole, self.real, self.partial, *extent, CHUNK=self.sizes["CHUNK"],
            WIDTH=_SPAN,
        )  # fmt: skip
        solver.begin[one](
            self.whole, self.real, *solving, into["dual"], self.sites,
            NORMALIZE=self.normalize, PAD=_PAD, BINS=sweeps.BINS, WIDTH=self.width,
        )  # fmt: skip
        for number in range(0 if everything else rounds):
            sweeps.sweep[grid](
                *tables, *solving, self.partial, self.ties, self.tally, *extent,
                **self.sizes, BINS=sweeps.BINS,
            )  # fmt: skip
            solver.update[one](
                *tables, self.bills, *solving, self.partial, self.tally, *extent,
                self.bills.numel(), rtol=_RTOL, CLOSE=number >= rounds - 2, PAD=_PAD,
                BINS=sweeps.BINS, WIDTH=self.width, SPAN=_SPAN,
            )  # fmt: skip
        vectors = [into[name].detach() for name in VECTORS]
        rules.settle[each](
            *tables, *solving, self.partial, self.ties, *vectors, into["dual"],
            *extent, self.leader, KEEP=everything, **self.sizes, WIDTH=self.width,
            SPAN=_SPAN,
        )  # fmt: skip
        torch.autograd.graph.increment_version([*vectors, into["dual"]])

    @torch.no_grad()
    def observe(self, weights: Sequence[Tensor], into: Mapping[str, Tensor]) -> Tensor:
        """What the masks cost and how they moved since the last time.

        Returns:
            Float64, on the device; `Seen.of` reads it.
        """
        self._locate(weights)
        self._mark(into, counts=True)
        shape = (_row(rules.HEADER) + 4 * self.sites,)
        summary = torch.empty(shape, dtype=torch.float64, device=self.device)
        rules.summarise[(self.sites,)](
            self.whole, self.control, self.partial, into["dual"], summary,
            self.sites, self.chunks, CHUNK=self.sizes["CHUNK"], SPAN=_SPAN,
        )  # fmt: skip
        return summary

    @property
    def worths(self) -> Tensor:
        """What a unit of magnitude was worth in the last solve, one a site."""
        return self.real[_row(sweeps.WORTH)]

    def _mark(self, into: Mapping[str, Tensor], counts: bool) -> None:
        self.whole[_row(sweeps.COUNT) :].zero_()
        names = ("mu", "slope", "center", "threshold", "last")
        rules.mark[(self.chunks,)](
            self.owner, self.whole, self.partial, self.words,
            *(into[name].detach() for name in names), self.sites, self.chunks,
            COUNTS=counts, **self.sizes,
        )  # fmt: skip
        self.marked = True

    def _locate(self, weights: Sequence[Tensor]) -> None:
        """Looks up where the weights lie; they may have been moved."""
        addresses = tuple(w.data_ptr() for w in weights)
        if addresses != self.addresses:
            self.addresses = addresses
            found = to_device(torch.tensor(addresses), self.device)
            self.whole[_row(sweeps.ADDRESS)].copy_(found)


def _row(number: Any) -> int:
    """A row of the kernels' tables as a plain number."""
    return int(number.value)
