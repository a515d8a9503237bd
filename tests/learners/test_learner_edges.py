"""Learners at the edges: optimizer state, degenerate weights, budgets, choices."""

import copy
import itertools
import math

import pytest
import torch
from torch.optim import SGD, Adam

import sparsefx
from tests import models
from tests.learner_runs import (
    GROWING,
    KEPT,
    TOTAL,
    adam,
    backward,
    sparse_of,
    state_of,
    step,
    train,
)
from tests.some_of import some_of


@pytest.mark.parametrize("name", ["gmp", "set", "rigl", "granet"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_moved_entries_start_with_no_optimizer_state(name: str, kind: str) -> None:
    sparse = sparse_of(name)
    parameters = sparse.parameters()
    optimizer = (
        SGD(parameters, lr=0.1, momentum=0.9)
        if kind == "sgd"
        else Adam(parameters, lr=0.01)
    )
    for _ in range(TOTAL):
        before = sparsefx.masks(sparse)
        backward(sparse)
        optimizer.step()
        optimizer.zero_grad()
        kept = copy.deepcopy(optimizer.state_dict()["state"])
        sparsefx.step(sparse, optimizer)
        after = sparsefx.masks(sparse)
        for number, (key, parameter) in enumerate(sparse.named_parameters()):
            if key not in after:
                continue
            # what is pruned and grown in one update was kept before and after
            restarted = before[key] & after[key] & (parameter == 0)
            moved = before[key] ^ after[key] | restarted
            assert not parameter[~after[key]].any()
            assert not parameter[moved].any()
            for field, value in optimizer.state[parameter].items():
                if value.shape == parameter.shape:
                    assert not value[moved].any()
                    assert torch.equal(value[~moved], kept[number][field][~moved])


def test_a_missing_optimizer_is_told_of_once() -> None:
    sparse = sparse_of("rigl")
    with pytest.warns(UserWarning, match=r"write sparsefx\.step\(model, optimizer="):
        sparsefx.step(sparse)
    sparsefx.step(sparse)  # warnings are errors
    quiet = sparse_of("rigl", optimizer_state="keep")
    sparsefx.step(quiet)
    sparsefx.step(quiet, adam(quiet))  # welcome, though not needed
    with pytest.raises(sparsefx.MaskError, match="optimizer is a str"):
        sparsefx.step(quiet, "adam")
    loud = sparse_of("set", update_every=1)
    with pytest.raises(sparsefx.MaskError, match="holds none of the masked weights"):
        sparsefx.step(loud, adam(models.mlp()))


@pytest.mark.parametrize(
    ("kind", "name"),
    some_of(
        itertools.product(["equal", "zero", "levels", "sparse"], [*KEPT, "spartan"]), 4
    ),
)
def test_degenerate_weights_keep_exact_counts(kind: str, name: str) -> None:
    net = models.mlp()
    with torch.no_grad():
        for parameter in net.parameters():
            if kind == "equal":
                parameter.fill_(0.5)
            elif kind == "zero":
                parameter.zero_()
            elif kind == "levels":
                parameter.copy_((parameter * 16).round() / 16)
            else:
                parameter *= torch.rand_like(parameter) < 0.05
    sparse = sparse_of(name, net=net, budget={"params": 0.3})
    optimizer = SGD(sparse.parameters(), lr=0.0)
    reports = train(sparse, optimizer, TOTAL)
    assert all(report.hard_cost <= report.budget for report in reports)
    total = sum(mask.numel() for mask in sparsefx.masks(sparse).values())
    # the soft top-k, frozen, counts a kept zero as dropped
    last = reports[11 if name == "spartan" else -1]
    assert last.hard_cost == math.floor(0.3 * total)


@pytest.mark.parametrize("name", [*KEPT, "spartan"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    name: str, value: float
) -> None:
    sparse = sparse_of(name, update_every=1)
    before = state_of(sparse)
    with torch.no_grad():
        kept = sparsefx.masks(sparse)["2.weight"]
        dict(sparse.named_parameters())["2.weight"][kept] = value
    optimizer = SGD(sparse.parameters(), lr=0.0)
    with pytest.raises(sparsefx.MaskError, match="2"):
        sparsefx.step(sparse, optimizer)
    after = state_of(sparse)
    for key in before:
        if "_sparsefx" in key:
            assert torch.equal(before[key].nan_to_num(), after[key].nan_to_num())


@pytest.mark.parametrize("name", GROWING)
def test_gradients_that_overflowed_grow_nothing(name: str) -> None:
    sparse = sparse_of(name, budget=0.25)
    optimizer = SGD(sparse.parameters(), lr=0.0)
    train(sparse, optimizer, 3)
    if name == "granet":
        return  # it prunes there, too
    before = sparsefx.masks(sparse)
    backward(sparse)
    for score in sparse._sparsefx.weights.kept.scores.values():
        score.fill_(math.inf)
    report = sparsefx.step(sparse, optimizer)
    assert report.hard_cost <= report.budget
    after = sparsefx.masks(sparse)
    assert all((before[key] | ~after[key]).all() for key in before)


@pytest.mark.parametrize("name", [*KEPT, "spartan"])
def test_a_budget_of_one_is_dense_and_of_zero_refused(name: str) -> None:
    with pytest.raises(sparsefx.BudgetError):
        sparse_of(name, budget=0.0)
    sparse = sparse_of(name, budget=1.0)
    report = train(sparse, adam(sparse), TOTAL)[-1]
    assert report.hard_cost == report.budget
    assert all(mask.all() for mask in sparsefx.masks(sparse).values())


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_chosen_backward_density(share: float) -> None:
    """Gradients for the largest weights of a wider budget, no others."""
    sparse = sparse_of("topkast", backward_density=share, total_steps=None)
    named = dict(sparse.named_parameters())
    for _ in range(3):
        masks = sparsefx.masks(sparse)
        backward(sparse)
        got = dict(
            zip(masks, map(sparse._sparsefx.weights.kept.reach, range(2)), strict=True)
        )
        assert all(not named[key].grad[~reach].any() for key, reach in got.items())
        assert share == 0.3 or any(named[k].grad[~m].any() for k, m in masks.items())
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(g.sum()) for g in got.values()) == math.floor(share * total)
        assert all((got[key] | ~mask).all() for key, mask in masks.items())
        weights = torch.cat([named[key].detach().flatten() for key in masks]).abs()
        wide = torch.cat([g.flatten() for g in got.values()])
        assert weights[wide].min() >= weights[~wide].max()
        step(sparse, SGD(sparse.parameters(), lr=0.1))


def test_a_backward_density_for_others_warns() -> None:
    with pytest.warns(UserWarning, match="backward_density 0.5 has no effect"):
        sparse_of("gmp", backward_density=0.5)
