"""Heads, neurons and channels that go whole: oracles, exact costs, what comes out."""

import itertools

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, CaptureError, MaskError, PolicyError
from sparsefx.passes import ShrinkUnits
from sparsefx.pruning.eliminate import Columns, eliminate, refitted
from tests.pruning import nets


def product(outputs=5, inputs=8, own=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, inputs, generator=generator).double().cumsum(1)
    weight = torch.randn(outputs, inputs, generator=generator).double()
    owner = torch.arange(inputs) % (inputs // own)  # not side by side
    return Columns(weight, rows.T @ rows / 40 + 0.01 * torch.eye(inputs), owner)


def least(one, gone):
    """The least loss without some units, by solving for it."""
    kept = ~torch.isin(one.owner, torch.tensor(gone))
    off = refitted(one.target, one.moments, kept) - one.target
    return float(((off @ one.moments) * off).sum())


@pytest.mark.parametrize("own", [1, 2])
def test_each_step_is_the_cheapest_and_its_loss_the_least(own) -> None:
    products = [product(own=own), product(outputs=3, own=own, seed=1)]
    units = 8 // own
    order, losses = eliminate(products, units)
    gone: list[int] = []
    for unit, loss in zip(order.tolist(), losses[1:].tolist(), strict=True):
        left = [u for u in range(units) if u not in gone]
        tried = {u: sum(least(p, [*gone, u]) for p in products) for u in left}
        assert unit == min(tried, key=tried.get)
        assert loss == pytest.approx(tried[unit], rel=1e-6)
        gone.append(unit)


def test_refitted_weights_are_the_best() -> None:
    one = product()
    kept = torch.tensor([True, False] * 4)
    found = refitted(one.target, one.moments, kept)
    slope = (found - one.target) @ one.moments
    assert slope[:, kept].abs().max() < 1e-9
    assert not found[:, ~kept].any()


def deep():
    torch.manual_seed(0)
    sizes = itertools.pairwise((12, 24, 16, 4))
    layers = [x for a, b in sizes for x in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("share", [0.8, 0.45])
def test_costs_are_those_of_the_model_that_is_left(share) -> None:
    net, data = deep(), nets.batches()
    pruned = sparsefx.prune(net, data, unit_density=share, held_out=0)
    kept = [int(units.sum()) for units in pruned.units.values()]
    macs = 20 * (12 * kept[0] + kept[0] * kept[1] + kept[1] * 4)
    dense = 20 * (12 * 24 + 24 * 16 + 16 * 4)
    one_more = 20 * max(12 + kept[1], kept[0] + 4)
    assert macs <= share * dense < macs + one_more
    assert pruned.report.costs.budgets["macs"].kept == macs
    graph = sparsefx.capture(pruned.model, (data[0],)).graphs[""]
    small = ShrinkUnits()(graph)
    assert small.get_parameter("2.weight").shape == (kept[1], kept[0])
    torch.testing.assert_close(small(data[0]), pruned.model(data[0]))
    assert f"{kept[0]} of 24 stay" in str(pruned.report)
    again = pruned.at(0.3)  # weights of the same units
    assert again.units is pruned.units
    assert again.report.costs.budgets["macs"].met
    for name, mask in again.masks.items():
        assert not (mask & ~pruned.masks[name]).any()
        assert not again.model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("granularity", ["2:4", "block:1x4", "channel"])
def test_structure_inside_of_units(granularity) -> None:
    options = {"unit_density": 0.8, "budget": 0.5, "keep_units": False}
    pruned = sparsefx.prune(deep(), nets.batches(), granularity=granularity, **options)
    assert pruned.report.costs.budgets["macs"].met
    for name, mask in pruned.masks.items():
        assert not pruned.model.get_parameter(name)[~mask].any()
        if granularity == "2:4":
            assert (mask.view(len(mask), -1, 4).sum(-1) == 2).all()


def test_fitting_beats_magnitudes_and_the_model_given_is_untouched() -> None:
    net, data = nets.mlp(), nets.batches(20)
    before = [p.clone() for p in net.parameters()]
    pruned = sparsefx.prune(net, data, unit_density=0.5)
    assert all(map(torch.equal, before, net.parameters()))
    (kept,) = pruned.units.values()
    size = net[2].weight.norm(dim=0) * net[0].weight.norm(dim=1)
    by_size = torch.zeros_like(kept)
    by_size[size.topk(int(kept.sum())).indices] = True
    x = torch.cat(data)
    with torch.no_grad():
        wanted, h = net(x), net[:2](x)
        plain = (h * by_size) @ net[2].weight.T + net[2].bias
        fitted = (pruned.model(x) - wanted).square().sum()
        assert fitted < 0.5 * (plain - wanted).square().sum()


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x):
        q, k, v = self.qkv(x[None]).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.mT / 2, -1) @ v
        return self.out(a.transpose(1, 2).flatten(2))[0] + x


class Channels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        h = torch.relu(self.depth(torch.relu(self.norm(self.stem(x)))))
        return self.head(torch.tanh(self.one(h) + self.two(h)).mean((2, 3)))


@pytest.mark.parametrize("make", [Heads, Channels])
def test_heads_and_channels_are_cut_out(make) -> None:
    torch.manual_seed(0)
    net = make().eval()
    data = nets.batches() if make is Heads else nets.images()
    pruned = sparsefx.prune(net, data, unit_density=0.6, held_out=0)
    kept = [int(units.sum()) for units in pruned.units.values()]
    assert min(kept) > 0
    assert sum(kept) < sum(map(len, pruned.units.values()))
    small = ShrinkUnits()(sparsefx.capture(pruned.model, (data[0],)).graphs[""])
    counts = [sum(p.numel() for p in one.parameters()) for one in (small, net)]
    assert counts[0] < 0.8 * counts[1]
    torch.testing.assert_close(small(data[0]), pruned.model(data[0]))
    assert 0 < pruned.report.change < 0.5


def test_bad_input() -> None:
    net, data = nets.mlp(), nets.batches()
    for model, options, error, text in (
        (net, {"unit_density": 0.01}, BudgetError, "unit_density 0.01 is below"),
        (net, {"unit_density": 1.5}, PolicyError, "unit_density is 1.5"),
        (nn.Linear(12, 3), {"unit_density": 0.5}, MaskError, "has no units"),
        (
            net,
            {"unit_density": 0.5, "exclude": ["2"]},
            MaskError,
            "no units whose weights may all",
        ),
    ):
        with pytest.raises(error, match=text):
            sparsefx.prune(model, data, **options)

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nets.mlp()

        def forward(self, x):
            return self.net(x) if float(x.detach().sum()) > -1e9 else x

    with (
        pytest.warns(UserWarning, match="not one graph"),
        pytest.raises(CaptureError, match="leave unit_density at 1"),
    ):
        sparsefx.prune(Branches(), data, unit_density=0.5)
