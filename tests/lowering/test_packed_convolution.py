"""Packed convolutions, and norms and ReLUs that become part of them."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefx.kernels.sparse_product import Form
from sparsefx.lowering.dense_layer import Dense, Window
from sparsefx.lowering.inference_graph import graph_of
from sparsefx.lowering.layer_forms import FORMS
from sparsefx.lowering.layer_trial import Asked
from sparsefx.lowering.lower_graph import search_graph
from sparsefx.lowering.packed_convolution import PackedConvolution
from tests.lowering.thin_models import thinned

WINDOWS = [
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((1, 1), (2, 2), (0, 0), (1, 1)),
    Window((3, 2), (2, 1), (0, 1), (1, 2)),
    Window((3, 3), (2, 2), (1, 1), (1, 1), 2),
    Window((3, 3), (1, 1), (1, 1), (1, 1), 6),
]


@pytest.fixture(autouse=True)
def packed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "csr", FORMS["csr"][:1])  # type: ignore[misc]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_layers(window: Window, bias: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 6 // window.groups, *window.kernel)
    weight *= torch.rand(weight.shape) < 0.3
    layer = Dense("w", weight, torch.randn(12) if bias else None, window)
    module, x = PackedConvolution(layer, Form(16, 8)), torch.randn(2, 6, 17, 19)
    found = module(x)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), found)
    wide = module.double()(x.double())
    torch.testing.assert_close(wide.float(), layer(x), atol=1e-5, rtol=1e-5)


class Net(nn.Module):
    """Norms with and without weights, a bias, a sum, one output that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.c = nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, affine=i != 1) for i in range(3))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norms[0](self.a(x)))
        y = self.norms[1](self.b(x)) + x
        z = self.c(y)
        return self.relu(self.norms[2](z)) + z


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for norm in model.norms:
        norm.running_mean = torch.randn(8)
        norm.running_var = torch.rand(8) + 0.1
    for p in model.parameters():
        if p.ndim == 1:
            nn.init.normal_(p)
    return thinned(model, density=0.3)


def lowered(model: nn.Module, x: Tensor) -> Any:
    found = graph_of(model, (x,))
    assert not isinstance(found, str)
    search = search_graph(found[0], [x], Asked("csr", 1))
    return search, search.with_layers(search.trials)


def test_what_follows_becomes_part_of_the_product() -> None:
    model, x = net(), torch.randn(2, 3, 9, 7)
    search, made = lowered(model, x)
    torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-5)
    held = {n: m for n, m in made.named_modules() if isinstance(m, PackedConvolution)}
    assert [m.activation for m in held.values()] == ["relu", "none", "none"]
    assert [m.scale is not None for m in held.values()] == [True, True, False]
    kinds = [type(m) for m in made.modules()]
    assert kinds.count(nn.BatchNorm2d) == 1
    relus = [n for n in made.graph.nodes if n.target is functional.relu]
    assert len(relus) == 1
    for trial, module in zip(search.trials, held.values(), strict=True):
        assert trial.module.values.data_ptr() == module.values.data_ptr()
        assert trial.module.activation == "none"
    again = search.with_layers(search.trials)
    assert torch.equal(again(x), made(x))


def test_layers_that_stay_dense_keep_what_follows() -> None:
    model, x = net(), torch.randn(2, 3, 9, 7)
    found = graph_of(model, (x,))
    assert not isinstance(found, str)
    search = search_graph(found[0], [x], Asked("dense", 1))
    made = search.with_layers(search.trials)
    assert [type(m) for m in made.modules()].count(nn.BatchNorm2d) == 3
    assert torch.equal(made(x), model(x))
