"""Densities from error curves: the optimum of the linear program, exact budgets."""

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.error_curves import ErrorCurves
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.policies.whole_units import counts

LEVELS = (0.0, 0.1, 0.3, 0.6, 1.0)


def problem(seed, budgets=1):
    rng = np.random.default_rng(seed)
    sites, points = [], {}
    for i in range(5):
        low = float(rng.choice([0.0, 0.25]))
        costs = {"macs": sympy.Integer(i + 1), "params": sympy.Integer(1)}
        shape = int(rng.integers(4, 40)), 10
        name = f"l{i}"
        sites.append(Site(name, name, "linear", shape, costs, min_density=low))
        rises = np.sort(rng.random(5))[::-1] * 10.0 ** rng.uniform(-1, 1)
        points[name] = list(zip(LEVELS, rises.tolist(), strict=True))
    limits = {}
    for cost in ("macs", "params")[:budgets]:
        row = np.array([s.cost(cost) * s.numel for s in sites])
        limits[cost] = float(row.sum() * rng.uniform(0.3, 0.7))
    return sites, points, limits


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), budgets=st.sampled_from([1, 2]))
def test_it_is_the_optimum_of_the_linear_program(seed, budgets) -> None:
    sites, points, limits = problem(seed, budgets)
    cost, budget = next(iter(limits.items()))
    plan = ErrorCurves(points)(sites, budget, cost, limits)
    found = sum(hull(points[s.name], plan.densities[s.name]) for s in sites)
    rows = [
        np.concatenate([[s.cost(c) * s.numel * x for x in LEVELS] for s in sites])
        for c in limits
    ]
    ends = [np.array(LEVELS) for _ in sites]
    best = linprog(
        np.concatenate([[y for _, y in points[s.name]] for s in sites]),
        A_ub=[*rows, *(-blocks(ends))],
        b_ub=[*limits.values(), *(-density_bounds(s)[0] for s in sites)],
        A_eq=blocks([np.ones(5)] * 5),
        b_eq=np.ones(5),
        bounds=(0, None),
    )
    whole = sum(rises[0][1] - rises[-1][1] for rises in points.values())
    slack = 1e-8 if budgets == 1 else 2e-3  # several are solved in slices
    assert best.fun - 1e-9 * whole <= found <= best.fun + slack * whole
    for (lower, _), s in zip(counts(plan, sites, limits), sites, strict=True):
        assert lower >= s.min_density * s.numel - 1e-6
    for c, limit in limits.items():
        kept = [n for n, _ in counts(plan, sites, limits)]
        spent = sum(s.cost(c) * n for s, n in zip(sites, kept, strict=True))
        assert spent <= limit * (1 + 1e-9)


def blocks(parts):
    """Rows of one block each, side by side."""
    found = np.zeros((len(parts), sum(map(len, parts))))
    for i, part in enumerate(parts):
        found[i, i * len(part) : (i + 1) * len(part)] = part
    return found


def hull(points, at):
    """The least damage of a mixture of densities that averages to one."""
    ends, rises = zip(*points, strict=True)
    found = linprog(
        rises, A_eq=[ends, np.ones(len(ends))], b_eq=[at, 1], bounds=(0, None)
    )
    return found.fun


def test_more_weights_do_no_more_damage() -> None:
    one = {"params": sympy.Integer(1)}
    sites = [Site(name, name, "linear", (10, 10), one) for name in "ab"]
    noisy = {"a": [(0, 1.0), (0.5, 0.2), (1, 0.4)], "b": [(0, 0.3), (1, 0.0)]}
    plan = ErrorCurves(noisy)(sites, 150, "params")
    assert plan.densities["a"] == pytest.approx(0.5)
    assert plan.densities["b"] == pytest.approx(1.0)


def test_what_it_refuses() -> None:
    sites, points, limits = problem(0)
    with pytest.raises(PolicyError, match="no curve for l0, l1"):
        ErrorCurves({})(sites, limits["macs"])
    with pytest.raises(BudgetError, match="budget"):
        ErrorCurves(points)(sites, 1e-9, "macs")
