"""Sites, alone and drawn with a budget, for tests of allocations."""

import sympy

from sparsefx.masking.site import Site
from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.erk import erk
from sparsefx.policies.uniform import uniform

POLICIES = (cost_budget, uniform, erk)


def site(name, shape, price=1, weight=None, low=0.0, high=1.0):
    return Site(
        f"{name}.weight",
        name,
        "linear",
        shape,
        {"macs": sympy.Integer(price), "params": sympy.Integer(1)},
        min_density=low,
        max_density=high,
        weight=weight,
    )


def sites_of(shapes, **options):
    return [site(f"l{i}", shape, **options) for i, shape in enumerate(shapes)]
