"""Pruning a model with a little data: budgets, oracles, what comes out."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.pruning.methods import METHODS
from tests.pruning import nets

BUDGETS = (
    {"macs": 0.4},
    {"params": 0.5},
    {"bytes": "700 B"},
    {"macs": 0.6, "params": 0.45},
)


def costs_of(pruned, name, itemsize=4):
    """What masks cost, counted by hand for the nets here, with batches of 20 rows."""
    kept = sum(int(mask.sum()) for mask in pruned.masks.values())
    return {"macs": kept * 20, "params": kept, "bytes": kept * itemsize}[name]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_budgets_hold_in_what_comes_out(method, budget) -> None:
    net = nets.mlp()
    dense = {"macs": 320 * 20, "params": 320, "bytes": 1280}
    pruned = sparsefx.prune(net, nets.batches(), budget=budget, method=method)
    left = []
    for name, amount in budget.items():
        limit = 700 if isinstance(amount, str) else amount * dense[name]
        unit = costs_of(pruned, name) / costs_of(pruned, "params")
        assert costs_of(pruned, name) <= limit
        left.append(limit - costs_of(pruned, name) < unit)
        assert pruned.report.costs.budgets[name].met
    assert any(left), "a budget is spent to less than one weight"
    for name, weight in pruned.model.named_parameters():
        if name in pruned.masks:
            assert not weight[~pruned.masks[name]].any()


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_random_nets_granularities_and_budgets(data) -> None:
    widths = [4 * data.draw(st.integers(1, 4)) for _ in range(3)]
    torch.manual_seed(data.draw(st.integers(0, 99)))
    net = nn.Sequential(nn.Linear(*widths[:2]), nn.Tanh(), nn.Linear(*widths[1:]))
    granularity = data.draw(
        st.sampled_from(
            ["unstructured", "2:4", "block:1x4", "block:4x1", "block:2x2", "channel"]
        )
    )
    least = 0.5 if granularity == "2:4" else 0.1
    budget = data.draw(st.floats(least, 1.0))
    rows = data.draw(st.integers(1, 30))
    pruned = sparsefx.prune(
        net,
        [torch.randn(rows, widths[0])],
        budget=budget,
        method=data.draw(st.sampled_from(sorted(METHODS))),
        granularity=granularity,
        allocation=data.draw(st.sampled_from(["curves", "uniform", "erk"])),
        keep_units=False,
    )
    total = sum(mask.numel() for mask in pruned.masks.values())
    kept = sum(int(mask.sum()) for mask in pruned.masks.values())
    assert kept <= budget * total * (1 + 1e-9)
    for name, mask in pruned.masks.items():
        weight = pruned.model.get_parameter(name)
        assert weight.isfinite().all()
        assert not weight[~mask].any()
        if granularity == "2:4" and not mask.all():
            assert (mask.view(len(mask), -1, 4).sum(-1) == 2).all()
        if granularity == "block:1x4":
            assert torch.equal(mask, mask[:, ::4].repeat_interleave(4, 1))
        if granularity == "channel":
            assert torch.equal(mask, mask[:, :1].expand_as(mask))


def test_magnitude_keeps_the_largest() -> None:
    net, even = nets.mlp(), {"method": "magnitude", "allocation": "uniform"}
    pruned = sparsefx.prune(net, nets.batches(), budget=0.25, **even)
    for name, mask in pruned.masks.items():
        weight = net.get_parameter(name).detach()
        order = weight.abs().flatten().argsort(descending=True)
        expected = torch.zeros(weight.numel(), dtype=torch.bool)
        expected[order[: weight.numel() // 4]] = True
        assert torch.equal(mask.flatten(), expected)
        assert torch.equal(pruned.model.get_parameter(name), weight * mask)


def test_a_global_policy_decides_counts_by_magnitude() -> None:
    net = nets.mlp()
    pruned = sparsefx.prune(
        net,
        nets.batches(),
        budget=0.25,
        method="magnitude",
        allocation="cost_budget",
        normalize="none",
        keep_units=False,
    )
    weights = torch.cat([net[i].weight.detach().flatten() for i in (0, 2)])
    found = torch.cat([pruned.masks[f"{i}.weight"].flatten() for i in (0, 2)])
    assert torch.equal(found, sparsefx.hard_topk(weights.abs(), 1.0, 80.0))


def test_activation_weighs_by_the_inputs() -> None:
    net, data = nets.mlp(), nets.batches()
    pruned = sparsefx.prune(
        net,
        data,
        budget=0.25,
        method="activation",
        allocation="uniform",
        held_out=0,
        damp=1e-6,
    )
    norms = torch.cat(data).square().mean(0).sqrt()
    score = (net[0].weight.detach().abs() * norms).flatten()
    expected = torch.zeros(score.numel(), dtype=torch.bool)
    expected[score.argsort(descending=True)[:48]] = True
    assert torch.equal(pruned.masks["0.weight"].flatten(), expected)


@pytest.mark.parametrize("method", ["obs", "admm"])
def test_fitted_weights_are_the_best_on_what_pruned_layers_feed(method) -> None:
    net, data = nets.mlp(torch.float64), nets.batches(dtype=torch.float64)
    damp = 0.01
    pruned = sparsefx.prune(net, data, budget=0.4, method=method, held_out=0, damp=damp)
    x = torch.cat(data)
    for i in (0, 2):
        if i:  # the second layer sees what the first, pruned, makes
            x = torch.relu(pruned.model[0](torch.cat(data))).detach()
        h = x.T @ x / len(x)
        h += damp * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
        mask, dense = pruned.masks[f"{i}.weight"], net[i].weight.detach()
        for row, kept, found in zip(dense, mask, pruned.model[i].weight, strict=True):
            if kept.any():
                best = torch.linalg.solve(h[kept][:, kept], (h @ row)[kept])
                assert torch.allclose(found[kept], best, rtol=1e-4, atol=1e-6)


def test_methods_that_fit_are_nearer_the_dense_model() -> None:
    net, data = nets.mlp(), nets.batches(40)
    found = {
        name: sparsefx.prune(net, data, budget=0.4, method=name).report
        for name in METHODS
    }
    change = {name: report.held_out for name, report in found.items()}
    assert change["admm"] < change["obs"] < change["activation"]
    for report in found.values():
        assert all(0 < one.error < 1 for one in report.fitted.values())


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    net = nets.Tokens()
    one, two = (
        sparsefx.prune(net, nets.sentences(padding), budget=0.5, exclude=["embed"])
        for padding in (0, 7)
    )
    for name, mask in one.masks.items():
        assert torch.equal(mask, two.masks[name])
        assert torch.equal(one.model.get_parameter(name), two.model.get_parameter(name))
    by_hand = sparsefx.prune(
        net,
        nets.sentences(7),
        budget=0.5,
        exclude=["embed"],
        valid=lambda batch: torch.ones_like(batch["attention_mask"]),
    )
    assert not torch.equal(by_hand.model.up.weight, one.model.up.weight)


@pytest.mark.filterwarnings("ignore:2 weights stay dense")
def test_convolutions_and_their_kernels() -> None:
    torch.manual_seed(0)
    net = nets.Convs().eval()
    for granularity in ("unstructured", "kernel"):
        found = {
            method: sparsefx.prune(
                net,
                nets.images(),
                budget=0.5,
                method=method,
                granularity=granularity,
                fallback="dense",
                held_out=0,
            ).report.change
            for method in ("magnitude", "obs", "admm")
        }
        assert max(found["obs"], found["admm"]) < found["magnitude"]


def test_a_weight_used_twice_is_fitted_to_all_its_inputs() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 12)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    data = nets.batches()
    pruned = sparsefx.prune(net, data, budget=0.4, held_out=0)
    x = torch.cat(data)
    with torch.no_grad():
        x = torch.cat([x, net[:2](x)])
    h = x.T @ x / len(x)
    h += 0.01 * h.diagonal().mean() * torch.eye(12)
    found, mask = pruned.model[0].weight, pruned.masks["0.weight"]
    row = next(i for i, kept in enumerate(mask) if kept.any())
    best = torch.linalg.solve(
        h[mask[row]][:, mask[row]], (h @ layer.weight.detach()[row])[mask[row]]
    )
    assert torch.allclose(found[row][mask[row]], best, rtol=1e-2, atol=1e-3)
    assert pruned.model[0] is pruned.model[2]


def test_what_has_no_inputs_to_see_is_pruned_by_magnitude() -> None:
    torch.manual_seed(0)
    net = nets.Tokens()
    with pytest.warns(UserWarning, match=r"rows with embed\.weight in a way"):
        report = sparsefx.prune(net, nets.sentences(), budget={"params": 0.5}).report
    assert report.fitted["embed.weight"].method == "magnitude"
    assert report.fitted["embed.weight"].error is None


def test_the_model_given_is_untouched_and_the_result_is_plain() -> None:
    net = nets.mlp().train()
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    pruned = sparsefx.prune(net, nets.batches(), budget=0.5)
    assert all(torch.equal(a, before[n]) for n, a in net.state_dict().items())
    assert net.training
    assert type(pruned.model) is nn.Sequential
    assert pruned.model.state_dict().keys() == before.keys()
    assert "0.weight" in pruned.masks
    assert not pruned.model[0].weight.requires_grad
    assert pruned.model[2].weight.requires_grad
    again = pickle.loads(pickle.dumps(pruned.model))
    assert torch.equal(again[0].weight, pruned.model[0].weight)


def test_another_budget_is_as_if_it_had_been_asked_first() -> None:
    net, data = nets.mlp(), nets.batches()
    pruned = sparsefx.prune(net, iter(data), budget=0.5).at({"params": 0.3})
    other = sparsefx.prune(net, data, budget={"params": 0.3})
    for name, mask in pruned.masks.items():
        assert torch.equal(mask, other.masks[name])


@torch.no_grad()
def test_the_report_says_what_is_kept_and_changed() -> None:
    net, data = nets.mlp(), nets.batches()
    pruned = sparsefx.prune(net, data, budget=0.5)
    report = pruned.report
    outputs = sum(float((net(x) - pruned.model(x)).square().sum()) for x in data)
    whole = sum(float(net(x).square().sum()) for x in data)
    assert report.held_out is not None
    low, high = sorted((report.change, report.held_out))
    assert 0 < low < outputs / whole < high
    assert "on batches that were held out" in str(report)
    assert "50.000 % of dense" in str(report)
    assert report.to_dict()["fitted"]["0.weight"]["method"] == "admm"
    alone = sparsefx.prune(net, data[0], budget=0.5).report
    assert alone.held_out is None
    assert "no batch was held out" in str(alone)


def test_everything_is_kept_where_the_budget_allows_it() -> None:
    net = nets.mlp()
    pruned = sparsefx.prune(net, nets.batches(), budget=1.0)
    assert all(mask.all() for mask in pruned.masks.values())
    assert pruned.report.change == 0
    for name, value in net.state_dict().items():
        assert torch.equal(value, pruned.model.state_dict()[name])
