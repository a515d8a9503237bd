"""First masks that are given: from a file, by SNIP; what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, MaskError, PolicyError

X = torch.linspace(-1, 1, 8 * 6).reshape(8, 6).sin()
Y = torch.arange(8) % 4
DATA = [(X[:4], Y[:4]), (X[4:], Y[4:])]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def some_masks(share=0.4):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(p.shape, generator=generator) < share
        for name, p in net().named_parameters()
        if p.ndim > 1
    }


def train(sparse, steps, optimizer):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(sparse(X), Y).backward()
        optimizer.step()
        sparsefx.step(sparse, optimizer)


@pytest.mark.parametrize("name", ["fixed", "rigl", "set"])
def test_masks_of_a_file_are_the_first_ones_and_the_budget(name: str) -> None:
    given = some_masks()
    options = {"example_inputs": (X,), "total_steps": 20}
    every = {} if name == "fixed" else {"update_every": 2}
    sparse = sparsefx.transform(net(), name, masks=given, **options, **every)
    found = sparsefx.masks(sparse)
    assert all(torch.equal(found[key], mask) for key, mask in given.items())
    total = sum(int(mask.sum()) for mask in given.values())
    params = sparsefx.report(sparse).budgets["params"]
    assert (params.limit, params.kept) == (total, total)
    train(sparse, 6, torch.optim.SGD(sparse.parameters(), 0.1, momentum=0.9))
    after = sparsefx.masks(sparse)
    for key, mask in given.items():
        assert int(after[key].sum()) == int(mask.sum())  # each layer keeps its number
    moved = any(not torch.equal(after[key], mask) for key, mask in given.items())
    assert moved == (name != "fixed")


def test_granet_prunes_masks_of_a_file_down_to_the_budget(tmp_path) -> None:
    given = some_masks(0.6)
    first = sum(int(mask.sum()) for mask in given.values())
    options = {"budget": {"params": 0.2}, "total_steps": 12, "update_every": 2}

    def made():
        return sparsefx.transform(
            net(), "granet", masks=given, example_inputs=(X,), **options
        )

    sparse, twin = made(), made()
    kept: list[int] = []
    tried: list[float] = []
    assert sparsefx.report(sparse).training.explored == first / 100
    optimizer = torch.optim.SGD(sparse.parameters(), 0.1, momentum=0.9)
    assert all(torch.equal(m, given[n]) for n, m in sparsefx.masks(sparse).items())
    for number in range(12):
        train(sparse, 1, optimizer)
        report = sparsefx.report(sparse)
        kept.append(int(report.totals["params"].kept))
        tried.append(float(report.training.explored or 0.0))
        allowed = 20 + (first - 20) * (1 - min((number + 1) // 2 * 2 / 6, 1)) ** 3
        assert kept[-1] == int(allowed + 1e-9)
        if number == 3:
            sparsefx.save(sparse, tmp_path / "half")
    assert kept[0] == first
    assert kept[-1] == 20
    assert tried == sorted(tried)
    sparsefx.load(twin, tmp_path / "half")
    other = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    train(twin, 4, other)
    assert sparsefx.report(twin).totals["params"].kept == kept[7]


def saliency():
    """The gradient with respect to masks of 1."""
    model = net()
    masks = {
        n: torch.ones_like(p, requires_grad=True)
        for n, p in model.named_parameters()
        if p.ndim > 1
    }
    for x, y in DATA:
        weights = {n: model.get_parameter(n).detach() * m for n, m in masks.items()}
        out = torch.func.functional_call(model, weights, (x,))
        F.cross_entropy(out, y).backward()
    return {n: m.grad.abs() for n, m in masks.items()}


@pytest.mark.parametrize("allocation", ["erk", "cost_budget", "er"])
def test_snip_keeps_what_the_loss_feels_most(allocation: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    sparse = sparsefx.transform(
        model,
        "fixed",
        masks="snip",
        calibration=DATA,
        loss=F.cross_entropy,
        budget=0.3,
        allocation=allocation,
        keep_units=False,
        example_inputs=(X,),
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    masks, values = sparsefx.masks(sparse), saliency()
    assert sum(int(mask.sum()) for mask in masks.values()) == 30
    groups = [list(masks)] if allocation == "cost_budget" else [[n] for n in masks]
    for names in groups:
        mask = torch.cat([masks[n].flatten() for n in names])
        value = torch.cat([values[n].flatten() for n in names])
        assert value[mask].min() >= value[~mask].max()
    ours = sparsefx.transform(
        net(), "fixed", budget=0.3, allocation=allocation, keep_units=False,
        example_inputs=(X,),
    )  # fmt: skip
    if allocation != "cost_budget":
        for name, mask in sparsefx.masks(ours).items():
            assert int(mask.sum()) == int(masks[name].sum())


def test_refusals() -> None:
    model, given = net(), some_masks()
    options = {"example_inputs": (X,), "inplace": True}
    with pytest.raises(MaskError, match="can be given to fixed, rigl, set and granet"):
        sparsefx.transform(model, "gmp", masks=given, **options)
    with pytest.raises(PolicyError, match=r"granet prunes masks .* give budget="):
        sparsefx.transform(model, "granet", masks=given, **options)
    with pytest.raises(BudgetError, match=r"the budget is 80: give masks that cost"):
        sparsefx.transform(
            model, "granet", masks=given, budget={"params": "80 params"}, **options
        )
    with pytest.raises(BudgetError, match="a budget_ramp that leads from one"):
        sparsefx.transform(
            model, "granet", masks=given, budget={"params": "20 params"},
            budget_ramp="constant", **options,
        )  # fmt: skip
    with pytest.raises(PolicyError, match="leave budget out"):
        sparsefx.transform(model, "rigl", masks=given, budget=0.5, **options)
    with pytest.raises(MaskError, match=r"they differ in 2\.weight"):
        sparsefx.transform(
            model, "fixed", masks={"0.weight": given["0.weight"]}, **options
        )
    wrong = given | {"2.weight": given["2.weight"].float()}
    with pytest.raises(MaskError, match=r"give bools of shape \(4, 10\)"):
        sparsefx.transform(model, "fixed", masks=wrong, **options)
    with pytest.raises(MaskError, match="keeps parts of groups"):
        sparsefx.transform(
            model, "fixed", masks=given, granularity="block:2x2", **options
        )
    with pytest.raises(PolicyError, match="give calibration"):
        sparsefx.transform(model, "fixed", masks="snip", **options)
    snip = {"masks": "snip", "calibration": DATA, "loss": F.cross_entropy, **options}
    with pytest.raises(MaskError, match="'snip' is for fixed, rigl, set and granet"):
        sparsefx.transform(model, "cost_budget", **snip)
    with pytest.raises(MaskError, match="leave the rewrite or the tokens out"):
        sparsefx.transform(model, "sparse_wide", **snip | {"inplace": False})
    assert type(model) is nn.Sequential
    assert type(model[0]) is nn.Linear
    sparsefx.transform(
        model, "fixed", masks=given, **options
    )  # nothing was left behind
