"""What every life of a sparse model promises: all presets, on two models."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.learners import learner_of
from tests.training.lives import (
    CASES,
    STEPS,
    X,
    optimizer_of,
    sparse_of,
    tensors_of,
    train,
)

SLACK = 1 + 1e-9
LAWS = itertools.count()


def every(law: Callable[..., None]) -> Callable[..., None]:
    """On all presets; in a quick run each stands its turn, of vision transformers
    every fifth, of convolutional nets every third."""
    turn, names = next(LAWS), []
    for i, name in enumerate(CASES):
        quick = (i + turn) % (5 if name.startswith("vit") else 3) == 0
        names.append(pytest.param(name, marks=() if quick else pytest.mark.slow))
    return pytest.mark.parametrize("name", names)(law)


POLICIES = {name: sparsefx.load_policy(case.policy) for name, case in CASES.items()}
# The paper's own rule ends with the first weight that reaches the budget.
INCLUSIVE = {name for name, policy in POLICIES.items() if policy.inclusive}
# `changed` counts groups: of these, two of four weights move.
PARTLY = {name for name, policy in POLICIES.items() if ":" in str(policy.granularity)}


def trained(name: str, steps: int = STEPS) -> nn.Module:
    sparse = sparse_of(name)
    for _ in train(sparse, optimizer_of(sparse), range(steps)):
        pass
    return sparse


def assert_same(one: nn.Module, other: nn.Module) -> None:
    there, here = tensors_of(one), tensors_of(other)
    assert there.keys() == here.keys()
    for key, value in there.items():
        assert torch.equal(value.nan_to_num(), here[key].nan_to_num()), key


def moved(before: dict[str, Any], after: dict[str, Any]) -> float:
    entries = sum(mask.numel() for mask in after.values())
    other = sum(int((before[n] != m).sum()) for n, m in after.items())
    return other / max(entries, 1)


@every
def test_a_step_says_what_it_does(name: str) -> None:
    sparse = sparse_of(name)
    before, points = sparsefx.masks(sparse), []
    for number, info in enumerate(
        train(sparse, optimizer_of(sparse), range(STEPS)), start=1
    ):
        after = sparsefx.masks(sparse)
        assert info.step == number
        for allowed, _, hard in info.budgets.values():
            assert hard <= allowed * SLACK + (name in INCLUSIVE)
        first = (info.budget, info.soft_cost, info.hard_cost)
        assert next(iter(info.budgets.values())) == first
        if name not in PARTLY:
            assert info.changed == pytest.approx(moved(before, after), abs=1e-12)
        densities = {n: float(m.float().mean()) for n, m in after.items()}
        assert {n: info.densities[n] for n in densities} == pytest.approx(densities)
        points.append((number, info.budget, info.soft_cost, info.hard_cost))
        before = after
    history = sparsefx.report(sparse).history
    assert [(p.step, p.limit, p.soft, p.hard) for p in history][-STEPS:] == points
    budgets = [point[1] for point in points]
    assert budgets == sorted(budgets, reverse=True)


@every
def test_what_comes_out_is_what_is_reported(name: str) -> None:
    sparse = trained(name)
    report, masks = sparsefx.report(sparse), sparsefx.masks(sparse)
    assert name in INCLUSIVE or all(b.met for b in report.budgets.values())
    kept = {row.name: row for row in report.layers}
    for key, mask in masks.items():
        assert kept[key].density == pytest.approx(float(mask.float().mean()))
    for cost, total in report.totals.items():
        # a selection of tokens has a row of its own, with the cost of the whole
        rows = [
            row.costs[cost]
            for row in report.layers
            if cost in row.costs and row.granularity != "token"
        ]
        assert math.fsum(row.kept for row in rows) == pytest.approx(total.kept)
        assert math.fsum(row.dense for row in rows) == pytest.approx(total.dense)
    dense = sparsefx.finalize(sparse)
    named = dict(dense.named_parameters(remove_duplicate=False))
    for key, mask in masks.items():
        if key in named:
            assert torch.equal(named[key] != 0, mask)
    with torch.no_grad():
        torch.testing.assert_close(dense.eval()(X), sparse.eval()(X))
    assert not any("sparsefx" in key for key in dense.state_dict())


@every
def test_copies_and_checkpoints_go_on_alike(name: str, tmp_path: Path) -> None:
    stop = 3
    sparse, twins = sparse_of(name), [sparse_of(name) for _ in range(2)]
    optimizer = optimizer_of(sparse)
    list(train(sparse, optimizer, range(stop)))
    twins[0].load_state_dict(sparse.state_dict())
    sparsefx.save(sparse, tmp_path / "state.safetensors")
    sparsefx.load(twins[1], tmp_path / "state.safetensors")
    twins.append(copy.deepcopy(sparse))
    before = copy.deepcopy(sparse)
    others = [optimizer_of(twin) for twin in twins]
    for twin, other in zip(twins, others, strict=True):
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        list(train(twin, other, range(stop, STEPS)))
    assert_same(before, sparse)
    whole = list(train(sparse, optimizer, range(stop, STEPS)))
    for twin in twins:
        assert_same(twin, sparse)
        assert sparsefx.report(twin).budgets == sparsefx.report(sparse).budgets
    assert whole[-1].step == STEPS


@every
def test_after_the_freeze_nothing_moves(name: str) -> None:
    sparse = trained(name)
    masks, optimizer = sparsefx.masks(sparse), optimizer_of(sparse)
    for info in train(sparse, optimizer, range(STEPS, STEPS + 3)):
        if info.frozen:
            assert info.changed == 0
            assert all(
                torch.equal(m, masks[n]) for n, m in sparsefx.masks(sparse).items()
            )
        masks = sparsefx.masks(sparse)
    if info.frozen and learner_of(POLICIES[name].learner).stored:
        sparse(X).square().sum().backward()
        for key, mask in masks.items():
            assert not sparse.get_parameter(key).grad[~mask].any()


@pytest.mark.parametrize("policy", ["cost_budget", "magnitude", "units"])
def test_a_long_history_is_thinned(policy: str) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    sparse = sparsefx.transform(
        net, policy, example_inputs=(torch.ones(2, 2),), total_steps=10, budget=0.7
    )
    for _ in range(1100):
        sparsefx.step(sparse)
    steps = [point.step for point in sparsefx.report(sparse).history]
    assert 100 < len(steps) <= 1000
    assert steps == sorted(set(steps))
    assert steps[0] <= 1
    assert steps[-1] == 1100
