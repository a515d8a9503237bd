"""The life cycle through the public functions."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import sparsefx
from tests import models
from tests.small_runs import X, sparse_of

IMAGES = torch.linspace(-1, 1, 3 * 49).reshape(3, 1, 7, 7).cos()


def train(sparse, x, steps):
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    info = None
    for _ in range(steps):
        sparse(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse)
    return info


# -- transform -------------------------------------------------------------------------


def test_same_parameters_and_an_untouched_model() -> None:
    net = models.ConvNet()
    classes = [type(m) for m in net.modules()]
    keys = list(net.state_dict())
    sparse = sparse_of(net, (IMAGES,), budget=0.3)
    assert isinstance(sparse, models.ConvNet)
    pairs = zip(net.named_parameters(), sparse.named_parameters(), strict=True)
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in pairs)
    assert [type(m) for m in net.modules()] == classes
    assert list(net.state_dict()) == keys
    assert [k for k in sparse.state_dict() if not k.startswith("_sparsefx")] == keys
    assert not any("_sparsefx" in k for k, _ in sparse.named_parameters())
    assert torch.equal(
        net.conv1.weight, dict(sparse.named_parameters())["conv1.weight"]
    )


def test_in_place() -> None:
    net = models.mlp()
    assert sparse_of(net, inplace=True, budget=0.3) is net
    assert net[0].weight.count_nonzero() < net[0].weight.numel()
    assert isinstance(net, nn.Sequential)
    assert "masked" in net.code


def test_graph_and_python_are_masked_alike() -> None:
    """If a guard fails, the module's Python runs on the same masked weights."""
    for make, x in ((models.ConvNet, IMAGES), (models.FunctionalDropout, X[:, :6])):
        sparse = sparse_of(make(), (x,), budget=0.3).eval()
        program = sparse.__dict__["_sparsefx_program"]
        assert program.run(sparse, (x,), {})[0]
        name = "x"
        assert not program.run(sparse, (), {name: x})[0]
        torch.testing.assert_close(sparse(x), sparse(x=x))
        single = torch.cat([sparse(row[None]) for row in x])
        torch.testing.assert_close(single, sparse(x=x))
        double = sparse.double()
        torch.testing.assert_close(
            double(x.double()).float(), sparse(x.double()).float()
        )


def test_dense_weights_are_never_seen() -> None:
    """Wherever Python reads a masked weight, it reads zeros where the mask is."""
    net = models.Shared()
    index = torch.arange(12).reshape(3, 4) % 10
    sparse = sparse_of(net, (index,), budget={"params": 0.2})
    masks = sparsefx.masks(sparse)
    assert set(masks) == {"twice.weight", "embed.weight"}
    assert torch.equal(sparse.twice.weight != 0, masks["twice.weight"])
    assert torch.equal(sparse.embed.weight != 0, masks["embed.weight"])
    assert torch.equal(sparse.head.weight, sparse.embed.weight)  # tied, masked once
    raw = dict(sparse.named_parameters(remove_duplicate=False))
    assert raw["head.weight"] is raw["embed.weight"] is net.head.weight
    report = sparsefx.report(sparse).to_dict()
    rows = {row["name"]: row for row in report["layers"]}
    assert rows["twice.weight"]["costs"]["macs"]["dense"] == 2 * 12 * 36
    assert rows["embed.weight"]["costs"]["macs"]["dense"] == 12 * 60


def test_sequential_hides_the_state() -> None:
    sparse = sparse_of(budget=0.3)
    assert len(sparse) == 3
    assert [type(m).__name__ for m in sparse] == ["Linear", "Tanh", "Linear"]
    assert sparse[-1] is sparse[2]
    assert len(sparse[:2]) == 2
    with pytest.raises(IndexError):
        sparse[3]


def test_attributes_of_a_whole_graph() -> None:
    sparse = sparse_of(budget=0.3)
    assert isinstance(sparse.graph, fx.Graph)
    assert "masked_weight" in sparse.code
    assert "masked" in sparse.print_readable(print_output=False)
    assert list(sparsefx.graphs(sparse)) == [""]


def test_without_steps_the_target_holds_at_once() -> None:
    sparse = sparse_of(budget=0.25)
    kept = sum(int(m.sum()) for m in sparsefx.masks(sparse).values())
    assert kept == (8 * 16 + 16 * 4) // 4


def test_inputs_offered_by_the_model_and_none_at_all() -> None:
    sparse = sparsefx.transform(models.mlp(), budget=0.25)
    assert sparsefx.report(sparse).to_dict()["budgets"]["macs"]["met"]
    with pytest.raises(sparsefx.BudgetError, match=r"unknown without example inputs"):
        sparsefx.transform(models.ConvNet(), budget="100 MACs")
    with pytest.warns(UserWarning, match=r"no example inputs.*give example_inputs"):
        sparse = sparsefx.transform(models.ConvNet(), budget=0.25)
    report = sparsefx.report(sparse).to_dict()
    assert report["budgets"]["params"]["met"]
    assert {row["masked"] for row in report["coverage"]} == {"graph", None}


def test_a_dense_checkpoint_gets_new_masks() -> None:
    sparse = sparse_of(budget=0.25)
    other = models.mlp()
    before = sparsefx.masks(sparse)
    sparse.load_state_dict(other.state_dict())
    after = sparsefx.masks(sparse)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    fresh = sparsefx.masks(sparse_of(other, budget=0.25))
    assert all(torch.equal(after[k], fresh[k]) for k in fresh)


# -- step, finalize --------------------------------------------------------------------


def test_the_life_cycle() -> None:
    net = models.ConvNet()
    sparse = sparse_of(net, (IMAGES,), budget=0.2, total_steps=10)
    assert all(bool(m.all()) for m in sparsefx.masks(sparse).values())
    costs, budgets = [], []
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)  # the model's own
    for number in range(1, 13):
        sparse(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse)
        assert info.step == number
        assert info.hard_cost <= info.budget
        if not info.frozen:
            assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)
        assert info.frozen == (number >= 8)
        assert 0 < info.kept_mask_mean <= 1 + 1e-6
        kept = {k: float(m.float().mean()) for k, m in sparsefx.masks(sparse).items()}
        assert info.densities == pytest.approx(kept)
        costs.append(info.hard_cost)
        budgets.append(info.budget)
    assert budgets == sorted(budgets, reverse=True)
    report = sparsefx.report(sparse).to_dict()
    assert report["totals"]["macs"]["kept"] == costs[-1]
    limit = report["budgets"]["macs"]["limit"]
    assert limit == pytest.approx(0.2 * report["totals"]["macs"]["dense"])
    prices = [site.cost("macs") for site in sparsefx.sites(sparse)]
    assert limit - max(prices) < costs[-1] <= limit


@pytest.mark.parametrize("steps", [2, 9])
def test_finalize_is_the_plain_model(steps: int, tmp_path: Path) -> None:
    net = models.ConvNet()
    sparse = sparse_of(net, (IMAGES,), budget=0.2, total_steps=10)
    train(sparse, IMAGES, steps)
    masks = sparsefx.masks(sparse)
    dense = sparsefx.finalize(sparse)
    assert [type(m) for m in dense.modules()] == [type(m) for m in net.modules()]
    assert list(dense.state_dict()) == list(net.state_dict())
    for name, mask in masks.items():
        weight = dense.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        assert isinstance(weight, nn.Parameter)
    assert torch.equal(dense.eval()(IMAGES), sparse.eval()(IMAGES))
    again = pickle.loads(pickle.dumps(dense))
    assert torch.equal(again(IMAGES), dense(IMAGES))
    torch.save(dense, tmp_path / "dense.pt")
    fx.symbolic_trace(dense)


def test_finalize_keeps_ties() -> None:
    index = torch.arange(12).reshape(3, 4) % 10
    sparse = sparse_of(models.Shared(), (index,), budget={"params": 0.2})
    dense = sparsefx.finalize(sparse)
    assert dense.head.weight is dense.embed.weight
    assert torch.equal(dense(index), sparse(index))


def test_all_equal_weights_and_many_zeros_meet_the_budget_exactly() -> None:
    for fill in ("equal", "zeros"):
        net = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 5, bias=False))
        with torch.no_grad():
            for layer in net:
                weight = layer.weight
                weight.fill_(0.5)
                if fill == "zeros":
                    zero = torch.rand(weight.shape) < 0.95
                    weight.masked_fill_(zero, 0.0)
        x = torch.ones(2, 20)
        sparse = sparse_of(net, (x,), budget=0.2, total_steps=10)
        optimizer = torch.optim.SGD(sparse.parameters(), lr=0.0)
        for _ in range(10):
            sparse(x).sum().backward()
            optimizer.step()
            info = sparsefx.step(sparse)
            assert info.hard_cost <= info.budget
            if not info.frozen:
                assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)
                assert info.hard_cost > info.budget - 2
        assert info.budget == pytest.approx(0.2 * 2 * 500)


# -- reading ---------------------------------------------------------------------------


def test_sites_costs_and_report(tmp_path: Path) -> None:
    sparse = sparse_of(models.ConvNet(), (IMAGES,), budget=0.3, exclude=("head",))
    sites = {site.name: site for site in sparsefx.sites(sparse)}
    assert set(sites) == {"conv1.weight", "conv2.weight"}
    assert str(sites["conv1.weight"].costs["macs"]) == "batch*height*width"
    assert sites["conv1.weight"].cost("macs") == 3 * 49
    table = sparsefx.costs(models.ConvNet(), (IMAGES,))
    report = sparsefx.report(sparse)
    found = report.to_dict()
    assert found["totals"]["macs"]["dense"] == table.totals()["macs"]["maskable"]
    coverage = {row["parameter"]: row for row in found["coverage"]}
    assert set(coverage) == {name for name, _ in sparse.named_parameters()}
    assert coverage["conv1.weight"]["masked"] == "graph"
    assert coverage["head.weight"]["reason"] == "excluded by 'head'"
    assert all(row["reason"] for row in coverage.values() if not row["masked"])
    assert "conv1.weight" in str(report)
    report.to_html(tmp_path / "report.html")
    report.to_json(tmp_path / "report.json")
    sparsefx.draw(sparse, tmp_path / "graph.svg")
    assert all((tmp_path / n).stat().st_size for n in ("report.html", "graph.svg"))


def test_masks_are_copies() -> None:
    sparse = sparse_of(budget=0.3)
    sparsefx.masks(sparse)["0.weight"].fill_(False)
    assert sparsefx.masks(sparse)["0.weight"].any()


def test_wrapped_models_are_found() -> None:
    sparse = sparse_of(budget=0.3, total_steps=10)
    wrapped = torch.compile(nn.DataParallel(sparse), backend="eager")
    assert sparsefx.step(wrapped).step == 1
    assert set(sparsefx.masks(wrapped)) == {"0.weight", "2.weight"}
