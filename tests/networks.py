"""Layers for the tests of budgets, and their masks."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from sparsefx.kernels.mask_rule import hard_mask, soft_mask
from sparsefx.solver import soft_problem
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer
from sparsefx.solver.soft_masks import solve_soft
from sparsefx.solver.survey_bands import look
from tests import reference

KINDS = ("smooth", "levels", "zeros", "equal", "none")


def magnitudes(kind, size, rng):
    """Absolute weights with a named property."""
    a = np.abs(rng.normal(size=size)) * 10.0 ** rng.uniform(-2, 1)
    if kind == "levels":
        return rng.integers(0, 5, size) / 4.0
    if kind == "zeros":
        return a * (rng.random(size) < 0.05)
    if kind == "equal":
        return np.full(size, 0.7)
    if kind == "none":
        return np.zeros(size)
    return a


@st.composite
def networks(draw, kinds=KINDS, bounds=True, spreads=(0.0, 1.0, 6.0)):
    """Layers, and a budget between the costs of their bounds.

    Prices and worths lie within a factor of ten to the spread of 1.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    spread = draw(st.sampled_from(spreads))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 60))
        a = magnitudes(draw(st.sampled_from(kinds)), size, rng)
        lower, upper = 0, size
        if bounds and draw(st.booleans()):
            lower, upper = sorted(rng.integers(0, size + 1, 2).tolist())
        price, worth = 10.0 ** rng.uniform(-spread, spread, 2)
        layers.append(
            Layer(
                torch.from_numpy(a).to(dtype), float(price), float(worth), lower, upper
            )
        )
    least, most = bound_costs(layers)
    # a mean mask far below 1/1000 is below what float32 offsets can steer to 1e-6
    fraction = draw(st.just(0.0) | st.floats(1e-3, 1.0))
    return layers, least + fraction * (most - least)


def bound_costs(layers):
    """Least and greatest cost that the bounds allow."""
    return [
        math.fsum(x.price * n for x, n in zip(layers, counts, strict=True))
        for counts in ([x.lower for x in layers], [x.upper for x in layers])
    ]


def best_unit(layer):
    """The greatest unit value of a layer."""
    return layer.worth / layer.price * float(layer.magnitude.max())


def blocks(layers):
    return [
        reference.Block(
            x.magnitude.double().numpy(), x.price, x.worth, x.lower, x.upper
        )
        for x in layers
    ]


def hard_masks(layers, masks):
    pairs = zip(layers, masks.rules, strict=True)
    return [hard_mask(x.magnitude, *rule) for x, rule in pairs]


def soft_masks(layers, masks):
    pairs = zip(layers, masks.rows, strict=True)
    return [soft_mask(x.magnitude, m.slope, m.center, m.offset) for x, m in pairs]


def soft_cost(layers, masks):
    pairs = zip(layers, soft_masks(layers, masks), strict=True)
    return math.fsum(x.price * float(m.double().sum()) for x, m in pairs)


def survey_of(layers):
    """A survey without bands."""
    return look([x.magnitude for x in layers], None)


def softly(layers, budget, beta, hard=None, **options):
    """The soft masks about the hard ones; those of `solve_hard` if none are given."""
    hard = hard or solve_hard(layers, budget)
    return solve_soft(layers, budget, beta, hard, survey=survey_of(layers), **options)


@contextlib.contextmanager
def precisely(rtol: float) -> Iterator[None]:
    """Budgets are met to this, for comparisons."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_problem, "RTOL", rtol)
        yield
