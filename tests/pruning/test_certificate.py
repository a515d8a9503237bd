"""The bound is below every choice there is, and near where it can be."""

import itertools

import pytest
import torch

import sparsefx
from sparsefx.masking.site import Site
from sparsefx.pruning.admm import admm
from sparsefx.pruning.certificate import least_share
from sparsefx.pruning.choice import Choice
from sparsefx.pruning.eliminate import refitted
from sparsefx.pruning.moments import Moments
from sparsefx.pruning.products import Form
from sparsefx.pruning.quadratic import Inputs, Quadratic
from sparsefx.settings.granularity import Granularity
from tests.pruning import nets


def layer_of(shape, alike, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(60, shape[1], generator=generator, dtype=torch.float64)
    rows = rows + alike * rows[:, :1]
    weight = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    moments = Moments((rows.T @ rows / 60)[None], None)
    return Quadratic.of(weight, Inputs.of(moments, 1e-2))


def loss(layer, scaled):
    off = scaled - layer.target
    return float(((off @ layer.inputs.matrix()) * off).sum())


def best_of_all(layer, count, allowed):
    """The least loss of all masks of so many entries."""
    matrix, (rows, inputs) = layer.inputs.matrix()[0], layer.target[0].shape
    best = float("inf")
    for places in itertools.combinations(range(rows * inputs), count):
        mask = torch.zeros(rows * inputs, dtype=torch.bool)
        mask[list(places)] = True
        if not allowed(mask):
            continue
        parts = [
            refitted(row[None], matrix, kept)
            for row, kept in zip(layer.target[0], mask.view(rows, inputs), strict=True)
        ]
        best = min(best, loss(layer, torch.cat(parts)[None]))
    return best


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("granularity", ["unstructured", "2:4"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_mask_is_better_than_the_bound(alike, granularity, seed) -> None:
    layer = layer_of((2, 4), alike, seed)
    grain = Granularity.parse(granularity)
    site = Site("w", "", "linear", (2, 4), {}, granularity=grain)
    count = 3 if granularity == "unstructured" else site.units // 2
    choose = Choice(site, Form((2, 4)), count)
    scaled, mask = admm(layer, choose)
    even = granularity == "2:4"
    best = best_of_all(
        layer,
        int(mask.sum()),
        lambda m: not even or bool((m.view(-1, 4).sum(1) == 2).all()),
    )
    least = least_share(layer, choose, scaled) * loss(layer, scaled)
    assert least <= best * (1 + 1e-9)
    if not alike:
        assert least > 0.6 * best


def test_what_is_optimal_is_called_so_and_what_is_not_is_not() -> None:
    layer = layer_of((3, 6), 0.0)
    site, form = Site("w", "", "linear", (3, 6), {}), Form((3, 6))
    choose = Choice(site, form, 18)
    assert least_share(layer, choose, layer.target) == 1.0
    choose = Choice(site, form, 9)
    bad = layer.target * (torch.arange(18).view(1, 3, 6) % 2 == 0)
    good, _ = admm(layer, choose)
    assert least_share(layer, choose, bad) < 0.7 * least_share(layer, choose, good)


def test_the_report_says_where_it_tells_and_where_not() -> None:
    torch.manual_seed(0)
    net = nets.Convs().eval()
    pruned = sparsefx.prune(net, nets.images(), budget=0.4, certify=True, held_out=0)
    fitted = pruned.report.fitted
    assert fitted["depth.weight"].least == pytest.approx(1.0, abs=1e-4)
    for method in ("magnitude", "activation"):
        worse = sparsefx.prune(
            net,
            nets.images(),
            budget={"params": 0.4},
            include=["depth"],
            budget_of="selected",
            method=method,
            certify=True,
        ).report.fitted["depth.weight"]
        assert worse.least < 0.97
    text = str(pruned.report)
    assert "depth.weight: no weights of as many entries have less than 100" in text
    silent = [name for name, one in fitted.items() if one.least < 0.5]
    assert f"says nothing of {len(silent)} of {len(fitted)} layers" in text
    plain = sparsefx.prune(net, nets.images(), budget=0.4, held_out=0).report
    assert all(one.least is None for one in plain.fitted.values())
