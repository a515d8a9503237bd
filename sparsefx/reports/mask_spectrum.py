r"""Masks as bipartite graphs: how far from the best expander of their degrees.

The mask of a weight with ``c_out`` rows is a graph between its flattened inputs (left)
and its outputs (right); vertices without edges are left out. With the biadjacency
matrix ``B`` the adjacency matrix has the eigenvalues ``+-sigma_i(B)``, so that the
largest one is ``mu_0 = sigma_1(B)`` and the largest one beside ``+-mu_0`` is
``mu = sigma_2(B)``. With mean degrees ``d_l``, ``d_r``:

- Ramanujan gap: ``sqrt(d_l - 1) + sqrt(d_r - 1) - mu``; not negative means good
  expansion. With the largest eigenvalue as bound: ``2 sqrt(mu_0 - 1) - mu``.
- Weighted spectral gap: ``sigma_1 - sigma_2`` of ``|W * M|``.
- The iterative forms, IMDB and IMSG, are means over left-regular subgraphs: for each
  degree that at least ``m`` left vertices have, these vertices and their neighbours.
- Normalised random coefficient: not positive means like a random graph. With ``E``
  edges among ``n_l`` and ``n_r`` vertices that have any, in `ICLR23`
  ``((mu^2 / 4 + 1) sqrt(n_l n_r) - |2 E - d_l n_l n_r / c_out|) / (c_in c_out)``, where
  edges count in both directions, and in `NEURIPS23`
  ``(mu sqrt(n_l n_r) - |E - d_l n_l n_r / n|) / n`` with ``n = n_l + n_r``.

Two published forms of the last three exist and both are given. `ICLR23` (Hoang, Liu,
Marculescu, Wang: Revisiting pruning at initialization through the lens of Ramanujan
graph, ICLR 2023) has ``m = 3`` and equal weights. `NEURIPS23` (Hoang, Kundu, Liu, Wang:
Don't just prune by magnitude! Your mask topology is a secret weapon, NeurIPS 2023) has
``m = 2`` and weighs each subgraph by ``max(n_l, n_r) / (n_l + n_r - 1)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.reports.singular_values import top_two

Variant = Literal["iclr23", "neurips23"]
_LEAST_VERTICES: dict[Variant, int] = {"iclr23": 3, "neurips23": 2}


@dataclass(frozen=True, slots=True)
class Iterated:
    """Means over the left-regular subgraphs, in one published form.

    Attributes:
        subgraphs: how many there are.
        ramanujan_gap: IMDB, the mean of their Ramanujan gaps; NaN if there is none.
        weighted_gap: IMSG, the mean of their weighted spectral gaps.
        random_coefficient: normalised random coefficient of the whole graph.
    """

    subgraphs: int
    ramanujan_gap: float
    weighted_gap: float
    random_coefficient: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The graph of one mask; NaN where a quantity is not defined.

    Attributes:
        name: the weight's name.
        shape: its shape.
        edges: number of kept weights.
        left: inputs with an edge.
        right: outputs with an edge.
        left_degree: mean over these inputs.
        right_degree: mean over these outputs.
        top: ``mu_0``, the largest singular value of the mask.
        second: ``mu``, the second one.
        ramanujan_gap: bound of the degrees less ``mu``; needs degrees above 1.
        top_gap: ``2 sqrt(mu_0 - 1) - mu``.
        weighted_gap: ``sigma_1 - sigma_2`` of the kept weights' magnitudes.
        iclr23: the iterated quantities as published in 2023 at ICLR.
        neurips23: the same as published in 2023 at NeurIPS.
    """

    name: str
    shape: tuple[int, ...]
    edges: int
    left: int
    right: int
    left_degree: float
    right_degree: float
    top: float
    second: float
    ramanujan_gap: float
    top_gap: float
    weighted_gap: float
    iclr23: Iterated
    neurips23: Iterated

    @property
    def density(self) -> float:
        """Kept fraction, in [0, 1]."""
        return self.edges / max(math.prod(self.shape), 1)

    def norm(self, variant: Variant = "iclr23") -> float:
        """The published score: the length of the four quantities, signs lost.

        A disconnected graph has a large negative gap and so a large score; compare
        the quantities themselves.
        """
        iterated: Iterated = getattr(self, variant)
        parts = (
            self.ramanujan_gap,
            self.weighted_gap,
            iterated.ramanujan_gap,
            iterated.weighted_gap,
        )
        return math.hypot(*(part for part in parts if math.isfinite(part)))


@dataclass(frozen=True, slots=True)
class _Edges:
    """Edges between consecutively numbered vertices, and the weights' magnitudes."""

    left: Tensor
    right: Tensor
    weights: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor, weights: Tensor) -> _Edges:
        """Numbers the vertices that have an edge."""

        def numbered(vertices: Tensor) -> Tensor:
            return (torch.bincount(vertices).gt(0).cumsum(0) - 1)[vertices]

        return cls(numbered(left), numbered(right), weights)

    @property
    def sizes(self) -> tuple[int, int]:
        return int(self.left.max()) + 1, int(self.right.max()) + 1

    def top_two(self) -> tuple[float, float]:
        n_l, n_r = self.sizes
        if len(self.left) == n_l * n_r:
            return math.sqrt(n_l * n_r), 0.0  # every edge there is
        ones = torch.ones_like(self.weights)
        return top_two(self.left, self.right, ones)

    def weighted_gap(self) -> float:
        first, second = top_two(self.left, self.right, self.weights)
        return first - second


def spectrum(mask: Tensor, weight: Tensor | None = None, name: str = "") -> Spectrum:
    """The spectral quantities of one mask.

    Args:
        mask: bool, or non-zero where kept; the first dimension is the outputs, the
            others are flattened to the inputs.
        weight: of the same shape; without it, every kept weight counts 1.
        name: what reports call it.

    Raises:
        MaskError: fewer than two dimensions, or shapes that differ.

    Example:
        K_{4,4} without a perfect matching has the singular values 3, 1, 1, 1:

        >>> found = spectrum(~torch.eye(4, dtype=torch.bool))
        >>> [round(x, 4) for x in (found.top, found.second, found.ramanujan_gap)]
        [3.0, 1.0, 1.8284]
    """
    if mask.ndim < 2:
        raise MaskError(
            f"mask of {name or 'a layer'} has shape {tuple(mask.shape)}; a graph needs "
            "two or more dimensions, outputs first"
        )
    values = mask if weight is None else weight.detach()
    if values.shape != mask.shape:
        raise MaskError(
            f"mask and weight of {name or 'a layer'} differ in shape: "
            f"{tuple(mask.shape)} and {tuple(values.shape)}; give the same"
        )
    flat = mask.detach().reshape(len(mask), -1).cpu()
    outputs, inputs = flat.nonzero().unbind(1)
    kept = values.reshape(flat.shape).cpu()[outputs, inputs].to(torch.float64).abs()
    if not len(kept):
        nothing = Iterated(0, math.nan, math.nan, math.nan)
        nan = (math.nan,) * 3
        shape = tuple(mask.shape)
        return Spectrum(
            name, shape, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, *nan, nothing, nothing
        )
    graph = _Edges.of(inputs, outputs, kept)
    n_l, n_r = graph.sizes
    d_l, d_r = len(kept) / n_l, len(kept) / n_r
    top, second = graph.top_two()
    both = [*_subgraphs(graph, min(_LEAST_VERTICES.values()))]
    return Spectrum(
        name=name,
        shape=tuple(mask.shape),
        edges=len(kept),
        left=n_l,
        right=n_r,
        left_degree=d_l,
        right_degree=d_r,
        top=top,
        second=second,
        ramanujan_gap=_gap(d_l, d_r, second) if min(d_l, d_r) > 1 else math.nan,
        top_gap=2 * math.sqrt(top - 1) - second if top >= 1 else math.nan,
        weighted_gap=graph.weighted_gap(),
        iclr23=_iterated("iclr23", both, _random_iclr(graph, flat, second)),
        neurips23=_iterated("neurips23", both, _random_neurips(graph, second)),
    )


def _gap(left_degree: float, right_degree: float, second: float) -> float:
    return math.sqrt(left_degree - 1) + math.sqrt(right_degree - 1) - second


@dataclass(frozen=True, slots=True)
class _Subgraph:
    """One left-regular subgraph: its sizes and its two gaps."""

    left: int
    right: int
    ramanujan_gap: float
    weighted_gap: float


def _subgraphs(graph: _Edges, least: int) -> list[_Subgraph]:
    degrees = torch.bincount(graph.left)
    order = torch.argsort(degrees[graph.left], stable=True)
    ends = torch.bincount(degrees[graph.left]).cumsum(0).tolist()
    found = []
    for degree, count in enumerate(torch.bincount(degrees).tolist()):
        if count < least:
            continue
        chosen = order[ends[degree] - degree * count : ends[degree]]
        part = _Edges.of(graph.left[chosen], graph.right[chosen], graph.weights[chosen])
        n_l, n_r = part.sizes
        mean = len(part.left) / n_r
        gap = _gap(float(degree), mean, part.top_two()[1])
        found.append(_Subgraph(n_l, n_r, gap, part.weighted_gap()))
    return found


def _iterated(variant: Variant, parts: list[_Subgraph], random: float) -> Iterated:
    used = [part for part in parts if part.left >= _LEAST_VERTICES[variant]]
    if not used:
        return Iterated(0, math.nan, math.nan, random)
    scales = [
        1.0
        if variant == "iclr23"
        else max(part.left, part.right) / (part.left + part.right - 1)
        for part in used
    ]
    pairs = list(zip(scales, used, strict=True))
    return Iterated(
        len(used),
        math.fsum(scale * part.ramanujan_gap for scale, part in pairs) / len(used),
        math.fsum(scale * part.weighted_gap for scale, part in pairs) / len(used),
        random,
    )


def _random_iclr(graph: _Edges, flat: Tensor, second: float) -> float:
    """As in the code of 2023: each edge counts in both directions there."""
    n_l, n_r = graph.sizes
    edges = 2 * len(graph.left)
    degree = len(graph.left) / n_l
    deviation = abs(edges - degree / flat.shape[0] * n_l * n_r)
    return ((second**2 / 4 + 1) * math.sqrt(n_l * n_r) - deviation) / flat.numel()


def _random_neurips(graph: _Edges, second: float) -> float:
    n_l, n_r = graph.sizes
    edges = len(graph.left)
    n = n_l + n_r
    return (
        second * math.sqrt(n_l * n_r) - abs(edges - edges / n_l * n_l * n_r / n)
    ) / n
