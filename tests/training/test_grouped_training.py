"""Whole models of grouped weights: structure, budgets, training, ties."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsefx
from sparsefx.errors import MaskError
from tests.grouped_models import ALL, X, conv_net, labels, members, net, sparse_of
from tests.some_of import some_of


@pytest.mark.parametrize("granularity", ALL)
@pytest.mark.parametrize("policy", some_of(["cost_budget", "uniform", "erk"], 3))
def test_masks_have_their_structure_and_the_budget_holds(
    granularity: str, policy: str
) -> None:
    sparse = sparse_of(granularity, policy=policy)
    info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    for site in sparsefx.sites(sparse):
        mask = sparsefx.masks(sparse)[site.name]
        kinds = [
            {bool(mask[i]) for i in of}
            for of in members(labels(granularity, site.shape)).values()
        ]
        if site.granularity.kind != "n_of_m":
            assert all(len(kind) == 1 for kind in kinds)
        elif not mask.all():
            n, _ = site.granularity.sizes
            runs = members(labels(granularity, site.shape)).values()
            assert {sum(bool(mask[i]) for i in of) for of in runs} == {n}
    if policy == "cost_budget":
        assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)
    report = sparsefx.report(sparse).to_dict()
    assert report["budgets"]["macs"]["met"]
    if "pad" not in granularity:
        assert report["totals"]["macs"]["kept"] == info.hard_cost


@pytest.mark.parametrize("granularity", ["block:2x4", "channel", "1:4"])
def test_the_hard_cost_is_within_one_group_of_the_budget(granularity: str) -> None:
    for budget in np.linspace(0.3, 0.95, 5):
        sparse = sparse_of(granularity, budget=float(budget), keep_units=False)
        info = sparsefx.step(sparse)
        dropped = [
            site.unit_size * site.cost("macs")
            for site in sparsefx.sites(sparse)
            if not sparsefx.masks(sparse)[site.name].all()
        ]
        assert info.budget - info.hard_cost < max(dropped)


@pytest.mark.parametrize("granularity", ALL)
def test_density_one_is_the_identity(granularity: str) -> None:
    model = net()
    sparse = sparse_of(granularity, model=model, budget=1.0)
    assert torch.equal(sparse(X), model(X))
    assert all(mask.all() for mask in sparsefx.masks(sparse).values())
    F.mse_loss(sparse(X), torch.zeros(6, 8)).backward()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.mse_loss(model(X), torch.zeros(6, 8)).backward()
    assert all(
        torch.equal(a, p.grad) for a, p in zip(mine, model.parameters(), strict=True)
    )


@pytest.mark.parametrize("granularity", ["block:4x2", "channel", "kernel", "2:4"])
def test_convolutions(granularity: str) -> None:
    x = torch.randn(2, 4, 6, 6)
    sparse = sparse_of(granularity, conv_net(), (x,))
    for site in sparsefx.sites(sparse):
        mask = sparsefx.masks(sparse)[site.name]
        sets = members(labels(granularity, site.shape, "transpose" in site.op))
        if granularity != "2:4":
            assert all(len({bool(mask[i]) for i in of}) == 1 for of in sets.values())
    sparse(x).square().mean().backward()
    sparsefx.step(sparse)
    done = sparsefx.finalize(sparse)
    torch.testing.assert_close(done(x), sparse(x))


def train(sparse, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(sparse(X), X[:, :8]).backward()
        optimizer.step()
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
    return info


@pytest.mark.parametrize("granularity", ["2:4", "1:4"])
@pytest.mark.parametrize("policy", ["set", "rigl", "granet"])
def test_moving_masks_leave_alone_what_every_run_keeps(
    policy: str, granularity: str
) -> None:
    options = {"total_steps": 20, "update_every": 2, "optimizer_state": "keep"}
    sparse = sparsefx.transform(
        net(), policy, example_inputs=(X,), granularity=granularity, **options,
        budget=0.8,
    )  # fmt: skip
    for _ in range(6):
        F.mse_loss(sparse(X), X[:, :8]).backward()
        before = {n: p.detach().clone() for n, p in sparse.named_parameters()}
        sparsefx.step(sparse)
        for name, mask in sparsefx.masks(sparse).items():
            assert torch.equal(sparse.get_parameter(name)[mask], before[name][mask])


@pytest.mark.parametrize("granularity", some_of(ALL, 2))
def test_training_freezes_saves_and_resumes(granularity: str, tmp_path: Path) -> None:
    def start():
        sparse = sparse_of(granularity, budget=0.6, total_steps=20)
        return sparse, torch.optim.SGD(sparse.parameters(), 0.1, momentum=0.9)

    sparse, optimizer = start()
    train(sparse, optimizer, 7)
    sparsefx.save(sparse, tmp_path / "seven.safetensors")
    kept = copy.deepcopy(optimizer.state_dict())
    info = train(sparse, optimizer, 13)
    assert info.frozen
    assert info.hard_cost <= 0.6 * sparsefx.report(sparse).totals["macs"].dense
    again, resumed = start()
    sparsefx.load(again, tmp_path / "seven.safetensors")
    resumed.load_state_dict(kept)
    train(again, resumed, 13)
    for a, b in zip(sparse.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    done = sparsefx.finalize(sparse)
    torch.testing.assert_close(done(X), sparse(X))
    for name, mask in sparsefx.masks(sparse).items():
        assert not done.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("granularity", ["block:2x4", "channel"])
def test_permuting_groups_permutes_masks(granularity: str) -> None:
    model = net(bias=False)
    masks = sparsefx.masks(sparse_of(granularity, model))
    order = torch.tensor([3, 2, 5, 4, 1, 0, 11, 10, 7, 6, 9, 8])  # keeps pairs of rows
    twin = net(bias=False)
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight[order])
    moved = sparsefx.masks(sparse_of(granularity, twin))
    assert torch.equal(moved["0.weight"], masks["0.weight"][order])


@pytest.mark.parametrize("granularity", some_of(ALL, 2))
def test_more_budget_never_keeps_less(granularity: str) -> None:
    before = None
    for budget in np.linspace(0.55, 1.0, 4):
        now = sparsefx.masks(
            sparse_of(granularity, budget=float(budget), keep_units=False)
        )
        kept = sum(int(mask.sum()) for mask in now.values())
        assert before is None or kept >= before
        before = kept


@pytest.mark.parametrize("granularity", ALL)
def test_weights_that_are_not_finite_are_refused(granularity: str) -> None:
    sparse = sparse_of(granularity)
    before = sparsefx.masks(sparse)
    weight = dict(sparse.named_parameters())["0.weight"]
    old = float(weight.detach()[0, 0])
    with torch.no_grad():
        weight[0, 0] = math.nan
    with pytest.raises(MaskError, match=r"0\.weight"):
        sparsefx.step(sparse)
    with torch.no_grad():
        weight[0, 0] = old
    after = sparsefx.masks(sparse)
    assert all(torch.equal(mask, after[name]) for name, mask in before.items())


@pytest.mark.parametrize(
    ("granularity", "value"), [(each, 0.5 * (i % 2)) for i, each in enumerate(ALL)]
)
def test_equal_weights_are_kept_by_index(granularity: str, value: float) -> None:
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[2].weight.fill_(value)
    sparse = sparse_of(granularity, model)
    info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    again = sparsefx.masks(sparse_of(granularity, model))
    for name, mask in sparsefx.masks(sparse).items():
        assert torch.equal(mask, again[name])
