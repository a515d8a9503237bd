"""Sites, alone and drawn with a budget, and policy functions that can be asked."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import sympy
import torch
from hypothesis import strategies as st

from sparsefx.masking.site import Site
from sparsefx.policies import ALLOCATIONS
from sparsefx.policies.latency_line import Line
from sparsefx.policies.policy_function import PolicyFunction
from sparsefx.policies.same_latency import SameLatency
from sparsefx.policies.sensitivity import LEVELS, Sensitivity
from sparsefx.policies.unit_bounds import bounds

NAMES = [f"l{i}.weight" for i in range(6)]
RISES = {  # falls with the density, for each site in its own way
    name: tuple((2 + i) * (1 - level) ** (1.3 + 0.2 * i) for level in LEVELS)
    for i, name in enumerate(NAMES)
}
LINES = {  # as slow as dense where all is kept
    name: Line(5.0 + 3 * i, 0.2 * (i % 3), 5.0 + 3 * i - 0.2 * (i % 3), 0.0, "csr")
    for i, name in enumerate(NAMES)
}
READY: Mapping[str, PolicyFunction] = {
    **ALLOCATIONS,
    "sensitivity": Sensitivity(increases=RISES),
    "same_latency": SameLatency(LINES),
}


def site(name, shape, price=1, weight=None, low=0.0, high=1.0, **more):
    """A linear layer of that weight; ``more`` are further costs by name."""
    costs = {"macs": price, "params": 1, **more}
    return Site(
        f"{name}.weight",
        name,
        "linear",
        shape,
        {cost: sympy.Rational(str(value)) for cost, value in costs.items()},
        min_density=low,
        max_density=high,
        weight=weight,
    )


def sites_of(shapes, **options):
    return [site(f"l{i}", shape, **options) for i, shape in enumerate(shapes)]


def dense_of(sites, cost="macs"):
    return sum(one.cost(cost) * one.numel for one in sites)


def spent(kept: Sequence[float], sites: Sequence[Site], cost: str = "macs") -> float:
    return math.fsum(n * s.cost(cost) for n, s in zip(kept, sites, strict=True))


@st.composite
def problems(draw, free=True, ties=True):
    """Sites with weights, prices (also 0) and bounds, and a feasible budget."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sites = []
    for i in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
        low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
        if draw(st.booleans()):
            low, high = 0.0, 1.0
        price = draw(st.integers(0 if i and free else 1, 50))
        signs = rng.integers(-3, 4, shape) if ties else 1.0
        weight = torch.from_numpy(np.asarray(signs * rng.normal(size=shape)))
        sites.append(site(f"l{i}", shape, price, weight, low, high))
    least, most = (spent([bounds(one)[end] for one in sites], sites) for end in (0, 1))
    budget = least + draw(st.floats(0, 1.1)) * (most - least)
    return sites, max(budget, 1e-6), most
