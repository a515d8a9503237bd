"""Policies whose densities are given, or found by a calibration."""

import re
from typing import Any

import numpy as np
import pytest
import sympy
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.layerwise import layerwise
from sparsefx.policies.sensitivity import Sensitivity, measure_sensitivity

X, Y = torch.linspace(-1, 1, 48).reshape(6, 8).sin(), torch.ones(6, 3)
BATCHES = [(X, Y), (X.flip(0), Y)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3))


def sites_of(shapes, costs=("macs", "params"), **options):
    return [
        Site(
            f"l{i}.weight", f"l{i}", "linear", shape,
            {"macs": sympy.Integer(i + 1), "params": sympy.Integer(1)}, **options,
        )
        for i, shape in enumerate(shapes)
    ]  # fmt: skip


def test_layerwise_keeps_what_is_given() -> None:
    sparse = sparsefx.transform(
        net(), "layerwise", densities={"*": 0.25, "2": 0.5}, example_inputs=(X,)
    )
    counts = {n: int(m.sum()) for n, m in sparsefx.masks(sparse).items()}
    assert counts == {"0.weight": 40, "2.weight": 30}
    info = sparsefx.step(sparse)
    assert info.hard_cost == info.budget == 6 * 70
    assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)


def test_layerwise_follows_a_ramp_and_bounds() -> None:
    pair = sites_of([(10, 10), (10, 10)])
    half = layerwise(pair, 225, "macs", densities={"*": 0.5})
    assert half.densities == {"l0.weight": 0.75, "l1.weight": 0.75}
    bound = sites_of([(10, 10), (10, 10)], max_density=0.6)
    free = layerwise(bound, 300, densities={"*": 0.5})
    assert set(free.densities.values()) == {0.6}


@pytest.mark.parametrize(
    ("densities", "budget", "error", "message"),
    [
        (
            {"l0": 0.5},
            0.9,
            PolicyError,
            "densities has no pattern for l1; give one",
        ),
        (
            {"*": 0.5, "z": 1},
            0.9,
            PolicyError,
            "densities pattern 'z' matches no",
        ),
        ({"*": 2}, 0.9, PolicyError, "densities['*'] is 2; give a kept fraction in"),
        (3, 0.9, PolicyError, "densities is 3; give a mapping from patterns to kept"),
        ({"*": 0.5}, 0.1, BudgetError, "the densities given cost 150 macs, but the"),
    ],
)
def test_layerwise_refuses(
    densities: Any, budget: float, error: type[Exception], message: str
) -> None:
    pair = sites_of([(10, 10), (10, 10)])
    policy = {"allocation": "layerwise", "densities": densities}
    with pytest.raises(error, match=re.escape(message)):
        sparsefx.allocate(pair, budget, policy=policy)


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_sensitivity_is_the_optimum_of_the_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = (0.1, 0.3, 0.6, 1.0)
    sites = sites_of([(int(rng.integers(4, 40)), 10) for _ in range(6)])
    rises = {s.name: (*np.sort(rng.random(3))[::-1].tolist(), 0.0) for s in sites}
    found = Sensitivity(levels, rises)
    sizes = np.array([s.numel for s in sites])
    budgets = {
        "macs": 0.35 * float(sizes @ np.arange(1, 7)),
        "params": 0.4 * sizes.sum(),
    }
    plan = found(sites, budgets["macs"], "macs", budgets)
    # for each site the lower hull of its points: what is best at a density
    density = np.array(list(plan.densities.values()))
    costs = {"macs": sizes * np.arange(1, 7), "params": sizes}
    for name, row in costs.items():
        assert row @ density <= budgets[name] * (1 + 1e-9)

    def hull(name, at):
        ends = (0.0, *levels)
        rise = (2 * rises[name][0], *rises[name])
        best = linprog(rise, A_eq=[ends, [1] * 5], b_eq=[at, 1], bounds=(0, None))
        return best.fun

    value = sum(hull(s.name, d) for s, d in zip(sites, density, strict=True))
    # no exchange between two sites is better
    for i in range(6):
        for j in range(6):
            if i == j:
                continue
            moved = density.copy()
            step = 0.01
            moved[i] += step * sizes.min() / (sizes[i] * (i + 1))
            moved[j] -= step * sizes.min() / (sizes[j] * (j + 1))
            fits = all(row @ moved <= budgets[n] for n, row in costs.items())
            if moved.min() < 0 or moved.max() > 1 or not fits:
                continue
            other = sum(hull(s.name, d) for s, d in zip(sites, moved, strict=True))
            assert other >= value - 5e-3  # slices are a 2048th of a site


def test_calibration_measures_each_layer_alone_and_changes_nothing() -> None:
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weight = model[2].weight
    site = Site("2.weight", "2", "linear", (3, 20), {}, weight=weight)
    found = measure_sensitivity(model, [site], BATCHES, F.mse_loss, (0.5, 1.0))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    cut = net().eval()
    with torch.no_grad():
        order = cut[2].weight.abs().flatten().argsort()
        cut[2].weight.view(-1)[order[:30]] = 0.0
        dense = sum(F.mse_loss(model(x), y) for x, y in BATCHES) / 2
        wanted = sum(F.mse_loss(cut(x), y) for x, y in BATCHES) / 2 - dense
    assert found.increases["2.weight"] == pytest.approx((float(wanted), 0.0), abs=1e-6)


def test_sensitivity_trains_a_model_within_its_budget() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[:, 4:] *= 1e-3  # half of it can go for nothing
    sparse = sparsefx.transform(
        model,
        "sensitivity",
        budget={"macs": 0.5, "params": 0.6},
        calibration=[(x, model(x).detach()) for x, _ in BATCHES],
        loss=F.mse_loss,
        example_inputs=(X,),
    )
    info = sparsefx.step(sparse)
    for limit, soft, hard in info.budgets.values():
        assert hard <= limit
        assert soft <= limit * (1 + 1e-6)
    assert info.hard_cost > info.budget - 6
    assert info.densities["2.weight"] > info.densities["0.weight"]


def test_sensitivity_without_calibration_says_what_to_give() -> None:
    with pytest.raises(PolicyError, match=r"needs calibration=\[\(x, y\), ...\] and"):
        sparsefx.transform(net(), "sensitivity", example_inputs=(X,))
    with pytest.raises(PolicyError, match="give a few batches"):
        measure_sensitivity(net(), [], [], F.mse_loss)
    with pytest.raises(PolicyError, match="the loss on the calibration batches is nan"):
        measure_sensitivity(net(), [], BATCHES, lambda x, y: torch.tensor(torch.nan))
    with pytest.raises(PolicyError, match=r"no curve for l0\.weight"):
        Sensitivity((1.0,), {})(sites_of([(4, 4)]), 8)
