"""What training has cost, and what share of the weights it has tried."""

import copy

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.learners import learner_of
from tests import models
from tests.learner_runs import EVERY, KEPT, TOTAL, X, adam, sparse_of, train
from tests.rewrites import ResNet

DENSE = [8 * 16, 16 * 4]
GROWTH = {"rigl": (4, 8), "granet": (4, 8, 12), "granet_sparse": (4, 8, 12)}


def forward(masks):
    """MACs of one example with the kept weights: each is used once."""
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("name", KEPT)
def test_what_was_kept_at_some_step_is_the_union_of_the_masks(name):
    sparse = sparse_of(name)
    optimizer, ever = adam(sparse), sparsefx.masks(sparse)
    for _ in range(TOTAL + 2):
        (info,) = train(sparse, optimizer, 1)
        for key, mask in sparsefx.masks(sparse).items():
            ever[key] |= mask
        share = forward(ever) / sum(mask.numel() for mask in ever.values())
        assert info.explored == pytest.approx(share, rel=1e-12)
    assert sparsefx.report(sparse).training.explored == info.explored
    assert info.to_dict()["explored"] == info.explored
    assert str(info).startswith(f"step {TOTAL + 2}, 57 of 57.6 params, ")


@pytest.mark.parametrize("name", EVERY)
def test_steps_cost_two_passes_of_what_is_kept_and_one_of_what_gets_gradients(name):
    sparse = sparse_of(name)
    optimizer, spent = adam(sparse), 0
    whole = forward({k: torch.ones_like(m) for k, m in sparsefx.masks(sparse).items()})
    learner = learner_of(sparsefx.load_policy(name).learner)
    soft = learner.decide is None or learner.dense_gradients
    for number in range(1, TOTAL + 3):
        kept = forward(sparsefx.masks(sparse))
        frozen = sparsefx.report(sparse).frozen
        dense = (soft and not frozen) or number in GROWTH.get(name, ())
        (info,) = train(sparse, optimizer, 1)
        spent += 2 * kept + (whole if dense else kept)
        assert info.training_cost == pytest.approx(spent / (3 * whole * number))
    training = sparsefx.report(sparse).training
    assert training.steps == number
    assert training.macs == len(X) * spent
    assert training.dense == len(X) * 3 * whole * number


def test_a_backward_set_of_its_own_is_what_gradients_cost():
    net, x = nn.Linear(20, 10), torch.randn(4, 20)
    sparse = sparsefx.transform(
        net, "topkast", budget=0.2, backward_density=0.6, example_inputs=(x,)
    )
    sparse(x).square().sum().backward()
    reached = int((net.weight.grad != 0).sum())
    assert reached == 120
    info = sparsefx.step(sparse)
    assert info.training_cost == pytest.approx((2 * 40 + 120) / (3 * 200))


def test_units_that_are_scored_are_computed():
    net = models.mlp()
    sparse = sparsefx.transform(
        net, "svite_units", budget=0.5, example_inputs=(X,), total_steps=10
    )
    report = sparsefx.step(sparse)
    row = sparsefx.report(sparse).totals["macs"]
    kept, dense = row.kept + row.fixed, row.dense + row.fixed
    assert report.training_cost == pytest.approx((2 * kept + dense) / (3 * dense))
    assert report.explored is None


def test_a_rewrite_at_equal_cost_trains_at_the_cost_of_the_dense_model():
    x = torch.randn(2, 3, 8, 8)
    for learner, more in (("set", 0.0), ("rigl", 1.0)):
        sparse = sparsefx.transform(
            ResNet((1, 1)), "sparse_wide", example_inputs=(x,), learner=learner,
            total_steps=50, update_every=5, drop_fraction=0.3, optimizer_state="keep",
        )  # fmt: skip
        sparse(x).sum().backward()
        for _ in range(4):
            info = sparsefx.step(sparse)
        total = sparsefx.report(sparse).totals["macs"]
        assert info.training_cost == pytest.approx(1.0, abs=0.01)
        sparse(x).sum().backward()
        last = 5 * sparsefx.step(sparse).training_cost - 4 * info.training_cost
        extra = (total.dense - total.kept) / (3 * (total.original + total.fixed))
        assert last == pytest.approx(info.training_cost + more * extra)


def test_both_are_state():
    sparse, twin = sparse_of("set"), sparse_of("set")
    optimizer = adam(sparse)
    train(sparse, optimizer, 6)
    twin.load_state_dict(sparse.state_dict())
    twins = [twin, copy.deepcopy(sparse)]
    before = sparsefx.report(sparse).training
    after = train(sparse, optimizer, 4)[-1]
    for other in twins:
        assert sparsefx.report(other).training == before
        found = train(other, adam(other), 4)[-1]
        assert found.training_cost == after.training_cost
        assert found.explored > before.explored
    dense = sparsefx.finalize(sparse)
    twin.load_state_dict(dense.state_dict())  # masks are found anew
    density = forward(sparsefx.masks(twin)) / sum(DENSE)
    assert sparsefx.report(twin).training.explored == pytest.approx(density)


def test_without_macs_nothing_is_said_of_them():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    sparse = sparsefx.transform(net, "set", budget=0.5, optimizer_state="keep")
    info = sparsefx.step(sparse)
    training = sparsefx.report(sparse).training
    assert (info.training_cost, training.macs, training.dense) == (None, None, None)
    assert info.explored == pytest.approx(0.5, abs=0.01)
