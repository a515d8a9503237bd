"""Layers by the kernel of `sparse_product`: what they compute, and when they may."""

import copy
import pickle
from typing import Any

import pytest
import torch

from sparsefx.kernels import sparse_product
from sparsefx.kernels.sparse_product import Form
from sparsefx.lowering.dense_layer import Dense, Window
from sparsefx.lowering.layer_forms import FORMS, NoCandidateError
from sparsefx.lowering.layer_trial import try_layer
from sparsefx.lowering.packed_layer import PackedLayer

FORM = Form(16, 8)
LINEARS = [(40,), (1, 40), (7, 40), (300, 40), (2, 60, 40), (2, 8, 9, 40), (0, 40)]
WINDOWS = [
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((1, 1), (2, 2), (0, 0), (1, 1)),
    Window((3, 2), (2, 1), (0, 1), (1, 2)),
]


def layer_of(*shape: int, window: Window | None = None, density: float = 0.3) -> Dense:
    torch.manual_seed(0)
    weight = torch.randn(shape) * (torch.rand(shape) < density)
    return Dense("w", weight, torch.randn(shape[0]), window)


def packed(layer: Dense) -> list[PackedLayer]:
    """What the makers of the form ``csr`` make that is packed."""
    made = []
    for make in FORMS["csr"]:
        try:
            made.append(make(layer))
        except NoCandidateError:
            continue
    return [module for module in made if isinstance(module, PackedLayer)]


@pytest.mark.parametrize("shape", LINEARS)
def test_linear(shape: tuple[int, ...]) -> None:
    layer, x = layer_of(48, 40), torch.randn(shape)
    found = PackedLayer(layer, FORM)(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
def test_convolution(window: Window) -> None:
    layer, x = layer_of(6, 5, *window.kernel, window=window), torch.randn(2, 5, 17, 19)
    found = PackedLayer(layer, FORM)(x)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(PackedLayer(layer, FORM)(last), found)


def test_it_is_copied_pickled_and_cast() -> None:
    layer, x = layer_of(48, 40), torch.randn(5, 40)
    module = PackedLayer(layer, FORM)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    wide = module.double()(x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), layer(x), atol=1e-5, rtol=1e-5)


def test_rows_that_share_their_columns_share_indices() -> None:
    layer = layer_of(48, 40)
    assert {module.form.together for module in packed(layer)} == {1}
    kept = (torch.rand(12, 40) < 0.2).repeat_interleave(4, 0)
    fours = Dense("w", torch.randn(48, 40) * kept, None)
    (module,) = (m for m in packed(fours) if m.form.together == 4)
    assert module.columns.numel() == kept.sum() // 4
    x = torch.randn(30, 40)
    torch.testing.assert_close(module(x), fours(x), atol=1e-5, rtol=1e-5)
    odd = Dense("w", fours.weight[:46], None)
    assert {module.form.together for module in packed(odd)} == {1}


def test_the_rest_of_a_form_is_tried_where_the_kernel_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = layer_of(48, 40)
    double = Dense("w", layer.weight.double(), None)
    assert not packed(double)
    trial = try_layer(double, torch.randn(3, 40).double(), "csr", rounds=1)
    assert trial.chosen == "csr"
    assert "csr" not in trial.lost
    nothing: Any = lambda: None  # noqa: E731
    monkeypatch.setattr(sparse_product, "_compiled", nothing)
    assert not packed(layer)
    assert try_layer(layer, torch.randn(3, 40), "csr", rounds=1).chosen == "csr"
