"""Each form of a layer computes what the dense one does, or says why not."""

from typing import Any

import pytest
import torch
from torch import nn

from sparsefx.lowering.dense_layer import (
    Dense,
    Window,
    columns_of,
    of_module,
    result_of,
)
from sparsefx.lowering.layer_forms import (
    CompressedLayer,
    CutLayer,
    NoCandidateError,
    SemiStructuredLayer,
)
from sparsefx.lowering.sparse_ops import compressed
from sparsefx.lowering.zero_patterns import block_size, is_two_of_four
from tests.lowering.thin_models import thinned

LINEARS = [(1, 40), (7, 40), (300, 40), (2, 60, 40), (3, 5, 40), (2, 8, 9, 40)]


@pytest.mark.parametrize("shape", LINEARS)
@pytest.mark.parametrize("kernel", ["gather", "csr", "bsr"])
def test_compressed_linear(shape: tuple[int, ...], kernel: str) -> None:
    torch.manual_seed(0)
    blocks = (torch.rand(6, 5) < 0.3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    layer = Dense("w", torch.randn(48, 40) * blocks, torch.randn(48))
    x = torch.randn(shape)
    found = CompressedLayer(layer, kernel)(x)
    assert found.shape == (*shape[:-1], 48)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


WINDOWS = [
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((1, 1), (2, 2), (0, 0), (1, 1)),
    Window((3, 3), (1, 1), (1, 1), (1, 1)),
    Window((3, 2), (2, 1), (0, 1), (1, 2)),
    Window((3, 3), (1, 1), (1, 1), (1, 1), 5),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kernel", ["gather", "csr"])
def test_compressed_convolution(window: Any, kernel: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 5 // window.groups, *window.kernel)
    layer = Dense("w", weight * (torch.rand(weight.shape) < 0.3), None, window)
    x = torch.randn(2, 5, 17, 19)
    found = CompressedLayer(layer, kernel)(x)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


def test_columns_times_matrix_is_the_convolution() -> None:
    window = Window((3, 3), (2, 2), (1, 1), (1, 1))
    layer = Dense("w", torch.randn(4, 3, 3, 3), None, window)
    x = torch.randn(2, 3, 9, 8)
    product = layer.matrix @ columns_of(x, window)
    torch.testing.assert_close(result_of(product, x, window), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_cut_layer_keeps_places(bias: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    weight[[1, 4]] = 0
    weight[:, 2] = 0
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    layer = Dense("w", weight, torch.randn(6) if bias else None, window)
    x = torch.randn(2, 4, 5, 5)
    cut = CutLayer(layer)
    assert cut.weight.shape == (4, 3, 3, 3)
    torch.testing.assert_close(cut(x), layer(x))
    flat = Dense("w", weight[..., 0, 0], layer.bias)
    last = x.transpose(1, 3)
    torch.testing.assert_close(CutLayer(flat)(last), flat(last))


def test_no_candidates_say_why() -> None:
    full = Dense("w", torch.ones(4, 4), None)
    half = Dense("w", torch.tensor([[1.0, 0.0, 1.0, 0.0]]), None)
    with pytest.raises(NoCandidateError, match="no zero row"):
        CutLayer(full)
    with pytest.raises(NoCandidateError, match="nothing left"):
        CutLayer(Dense("w", torch.zeros(2, 2), None))
    with pytest.raises(NoCandidateError, match="no blocks"):
        CompressedLayer(half, "bsr")
    with pytest.raises(NoCandidateError, match="no 2:4"):
        SemiStructuredLayer(full)
    with pytest.raises(NoCandidateError, match="needs a GPU"):
        SemiStructuredLayer(half)


def test_patterns() -> None:
    mask = torch.zeros(64, 64)
    mask[:32, 32:] = 1
    assert block_size(mask) == 32
    mask[33, 1] = 1  # one weight outside: larger blocks would be too empty
    assert block_size(mask) == 8
    assert block_size(torch.ones(64, 64)) is None
    assert block_size(torch.zeros(64, 64)) is None
    assert is_two_of_four(torch.tensor([[0.0, 1, 1, 0, 1, 0, 0, 1]]))
    assert not is_two_of_four(torch.tensor([[0.0, 1, 1, 1, 0, 0, 0, 0]]))
    assert not is_two_of_four(torch.zeros(2, 6))


def test_compressed_rows_are_scipys() -> None:
    from scipy.sparse import csr_matrix

    matrix = thinned(nn.Linear(9, 7)).weight.detach()
    wanted = csr_matrix(matrix.numpy())
    offsets, columns, values = compressed(matrix)
    assert offsets.tolist() == wanted.indptr.tolist()
    assert columns.tolist() == wanted.indices.tolist()
    assert values.tolist() == wanted.data.tolist()


def test_other_modules_are_no_layers() -> None:
    assert of_module("a", nn.Conv1d(4, 4, 3)) is None
    assert of_module("a", nn.Conv2d(4, 4, 3, padding="same")) is None
    assert of_module("a", nn.Conv2d(4, 4, 3, padding_mode="reflect")) is None
    assert of_module("a", nn.ReLU()) is None
    assert of_module("", nn.Linear(2, 2)).name == "weight"
