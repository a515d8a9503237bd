"""Weights in unusual places are masked: recurrent, behind views, in Python only."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import sparsefx
from sparsefx.masking.masked_module import program_of
from sparsefx.tracing.observed_uses import watch
from tests.tracing.masked_runs import Run, X, sparse_of


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_weights_are_masked(kind: type[nn.Module]) -> None:
    layer = kind(6, 5, num_layers=2, batch_first=True)
    x = torch.randn(3, 4, 6)
    sparse = sparsefx.transform(layer, example_inputs=(x,), budget=0.5)
    masks = sparsefx.masks(sparse)
    assert set(masks) == {n for n, _ in layer.named_parameters() if "weight" in n}
    (site, *_) = sparsefx.sites(sparse)
    assert str(site.costs["macs"]) == "batch*tokens"
    dense = sparsefx.finalize(sparse)
    wanted = sparse.eval()(x)[0]
    torch.testing.assert_close(dense.eval()(x)[0], wanted)
    program = program_of(sparse)
    assert program.run(sparse, (x,), {})[0]
    python = type(layer).forward(sparse, x)[0]  # the properties, without the graph
    torch.testing.assert_close(python, wanted)
    dense.to(torch.float64)
    assert dense(x.double())[0].dtype == torch.float64


def test_weights_behind_views_and_scales_are_sites() -> None:
    cases = {
        "slice": lambda m, x: m.b(x @ m.a.weight[2:5].t().repeat(1, 2)),
        "scale": lambda m, x: m.b(F.linear(x, m.a.weight * 0.5)),
        "norm": lambda m, x: m.b(F.linear(x, F.normalize(m.a.weight))),
    }
    for run in cases.values():
        sparse = sparse_of(Run(run), (X,))
        assert set(sparsefx.masks(sparse)) == {"a.weight", "b.weight"}
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 3)))
    assert set(sparsefx.masks(sparse_of(normed, (X,)))) == {
        "0.parametrizations.weight.original1"
    }


def test_weights_only_python_uses_are_observed() -> None:
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.Parameter(torch.randn(3, 6, 6))

        def forward(self, x):
            out = torch.zeros_like(x)
            for index in range(3):
                rows = (x.argmax(1) % 3 == index).nonzero()[:, 0]
                if rows.numel():
                    out[rows] = F.linear(x[rows], self.experts[index])
            return out

    model = Experts()
    with pytest.warns(UserWarning, match="not one graph"):
        sparse = sparsefx.transform(model, example_inputs=(X,), budget=0.5)
    (site,) = sparsefx.sites(sparse)
    assert site.cost("macs") == pytest.approx(4 / 3)  # a row meets one of three
    (row,) = sparsefx.report(sparse).to_dict()["coverage"]
    assert row["masked"] == "property"


def test_watched_products() -> None:
    layer = nn.Conv1d(2, 3, 3)
    with watch(layer, ["weight"]) as seen:
        layer(torch.ones(1, 2, 5))
    assert seen.found["weight"].macs == 3 * 3 * 2 * 3


def test_masked_weights_under_vmap() -> None:
    model = Run(lambda m, x: torch.vmap(lambda row: m.b(m.a(row)))(x))
    with pytest.warns(UserWarning, match="not one graph"):
        sparse = sparsefx.transform(model, example_inputs=(X,), budget={"params": 0.5})
    dense = sparsefx.finalize(copy.deepcopy(sparse))
    torch.testing.assert_close(sparse(X), dense(X))
