"""Depthwise layers: the best of all masks, against trying them one by one."""

import itertools

import pytest
import torch

import sparsefx
from sparsefx.pruning.enumerated import Enumerated
from sparsefx.pruning.moments import Moments
from sparsefx.pruning.quadratic import Inputs, Quadratic
from tests.pruning import nets


def depthwise(channels, inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(channels, 30, inputs, generator=generator).cumsum(-1).double()
    moments = Moments(rows.mT @ rows / 30, None)
    weight = torch.randn(channels, 1, inputs, generator=generator).double()
    return Quadratic.of(weight, Inputs.of(moments, 1e-3))


@pytest.mark.parametrize("count", range(9))
def test_no_mask_is_better(count) -> None:
    layer = depthwise(2, 4)
    weight, mask = Enumerated.of(layer).solve(count)
    matrix, target = layer.inputs.matrix(), layer.target
    off = weight - target
    found = float(((off @ matrix) * off).sum())
    best = float("inf")
    for places in itertools.combinations(range(8), count):
        total = 0.0
        for channel in range(2):
            kept = [p % 4 for p in places if p // 4 == channel]
            h, t = matrix[channel], target[channel, 0]
            u = torch.zeros_like(t)
            if kept:
                u[kept] = torch.linalg.solve(h[kept][:, kept], (h @ t)[kept])
            total += float((u - t) @ h @ (u - t))
        best = min(best, total)
    assert int(mask.sum()) == count
    assert not weight[~mask].any()
    assert found == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_other_methods_are_no_better() -> None:
    torch.manual_seed(0)
    net = nets.Convs().eval()
    options = {"include": ["depth"], "budget_of": "selected", "budget": 0.4}
    found = {
        method: sparsefx.prune(net, nets.images(), method=method, **options).report
        for method in ("magnitude", "activation", "admm", "obs")
    }
    errors = {name: r.fitted["depth.weight"].error or 0 for name, r in found.items()}
    assert errors["admm"] == errors["obs"]
    assert errors["admm"] < min(errors["magnitude"], errors["activation"])
