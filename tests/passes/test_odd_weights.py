"""Weights that are not plain: quantized on the way, looked up sparsely, complex."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx


def reasons(model: nn.Module) -> dict[str, str]:
    rows = sparsefx.report(model).to_dict()["coverage"]
    return {row["parameter"]: row["reason"] for row in rows if not row["masked"]}


class Quantized(nn.Module):
    """A linear layer whose weight is rounded to whole multiples of a scale."""

    def __init__(self, point: int, by_channel: bool) -> None:
        super().__init__()
        self.fc, self.by_channel = nn.Linear(4, 8), by_channel
        self.point = point
        self.register_buffer("scales", torch.full((8,), 0.05))
        self.register_buffer("points", torch.full((8,), point, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_channel:
            w = torch.fake_quantize_per_channel_affine(
                self.fc.weight, self.scales, self.points, 0, -128, 127
            )
        else:
            w = torch.fake_quantize_per_tensor_affine(
                self.fc.weight, 0.05, self.point, -128, 127
            )
        return F.linear(x, w, self.fc.bias)


@pytest.mark.parametrize("by_channel", [False, True])
def test_quantized_weights_are_masked_where_zero_stays(by_channel: bool) -> None:
    model, x = Quantized(0, by_channel), torch.randn(3, 4)
    sparse = sparsefx.transform(model, example_inputs=(x,), budget={"macs": 0.5})
    sparse(x).square().sum().backward()
    sparsefx.step(sparse)
    mask = sparsefx.masks(sparse)["fc.weight"]
    assert int(mask.sum()) == 16
    dense = sparsefx.finalize(sparse)
    assert not dense.fc.weight[~mask].any()
    torch.testing.assert_close(dense(x), sparse(x))


@pytest.mark.parametrize("by_channel", [False, True])
def test_quantized_weights_whose_zeros_move_are_refused(by_channel: bool) -> None:
    model, x = Quantized(3, by_channel), torch.randn(3, 4)
    with pytest.raises(sparsefx.MaskError, match=r"fc\.weight.*fake_quantize"):
        sparsefx.transform(model, example_inputs=(x,), budget={"macs": 0.5})


def test_models_prepared_for_quantization_are_masked() -> None:
    torch.manual_seed(0)
    quantization = pytest.importorskip("torch.ao.quantization")
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).train()
    x = torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another library
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        model = quantization.prepare_qat(model)
        model(x)
        sparse = sparsefx.transform(model, example_inputs=(x,), budget={"macs": 0.5})
        sparse(x).square().sum().backward()
        sparsefx.step(sparse)
        masks = sparsefx.masks(sparse)
        assert sum(int(mask.sum()) for mask in masks.values()) == 24
        dense = sparsefx.finalize(sparse.eval())
        weight = dense[0].weight_fake_quant(dense[0].weight)
    assert not weight[~masks["0.weight"]].any()
    torch.testing.assert_close(dense(x), sparse(x))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_stay_sparse(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind(50, 8, sparse=True), nn.Linear(8, 40))
    ids = torch.randint(0, 50, (6, 3))
    with pytest.warns(UserWarning, match="sparse=True"):
        sparse = sparsefx.transform(
            model, example_inputs=(ids,), budget={"params": 0.3}, budget_of="selected"
        )
    sparse(ids).sum().backward()
    assert sparse[0].weight.grad.is_sparse
    assert sparsefx.masks(sparse).keys() == {"1.weight"}
    assert reasons(sparse)["0.weight"].endswith("include it to mask it")
    asked = sparsefx.transform(
        model, example_inputs=(ids,), budget={"params": 0.5}, include=("0", "1")
    )
    assert sparsefx.masks(asked).keys() == {"0.weight", "1.weight"}


def test_complex_weights_are_refused_by_name() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
            self.w = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out((self.fc(x).to(torch.complex64) @ self.w).abs())
            return found

    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"w \(its entries are complex64"):
        sparse = sparsefx.transform(
            Complex(), example_inputs=(x,), budget={"macs": 0.5}
        )
    assert sparsefx.masks(sparse).keys() == {"fc.weight", "out.weight"}
    alone = nn.Linear(4, 8, dtype=torch.complex64)
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    with pytest.raises(sparsefx.MaskError, match="complex64"):
        sparsefx.transform(alone, example_inputs=(x.to(torch.complex64),), budget=0.5)
    assert all(torch.equal(alone.state_dict()[k], v) for k, v in before.items())
