"""Sparse convolutions are dense ones, in float64, of any window and size."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparsefx.kernels import sparse_convolution, sparse_product
from sparsefx.kernels.sparse_convolution import After, convolve, size_of
from sparsefx.kernels.sparse_product import CHUNK, Form, pack
from sparsefx.lowering import sparse_ops as _registered  # noqa: F401

AS_IS = After()
WINDOWS = [
    (1, 1, 1, 1, 0, 0, 1, 1),
    (1, 1, 2, 2, 0, 0, 1, 1),
    (1, 1, 1, 1, 1, 2, 1, 1),
    (3, 3, 1, 1, 1, 1, 1, 1),
    (3, 3, 2, 2, 1, 1, 1, 1),
    (7, 7, 2, 2, 3, 3, 1, 1),
    (4, 4, 4, 4, 0, 0, 1, 1),
    (3, 2, 2, 1, 0, 1, 1, 2),
    (2, 5, 3, 2, 2, 4, 2, 3),
    (1, 3, 1, 1, 0, 0, 1, 1),
]


def weight_of(outputs: int, channels: int, window: Any, density: float) -> Tensor:
    made = torch.Generator().manual_seed(outputs + 100 * channels)
    shape = outputs, channels, *window[:2]
    kept = torch.rand(shape, generator=made) < density
    return torch.randn(shape, generator=made) * kept


def convolved(
    weight: Tensor, x: Tensor, window: Any, form: Form, after: After = AS_IS
) -> Tensor:
    y = torch.full((x.shape[0], len(weight), *size_of(x, window)), math.nan)
    convolve(x, pack(weight.flatten(1), form), window, after, y, form.vectors)
    return y


def dense(weight: Tensor, x: Tensor, window: Any) -> Tensor:
    stride, padding, dilation = (window[i : i + 2] for i in (2, 4, 6))
    return functional.conv2d(x, weight, None, stride, padding, dilation)


def assert_close(found: Tensor, weight: Tensor, x: Tensor, window: Any) -> None:
    """Within the rounding of float32 sums, whatever their order; also of denormals."""
    wanted = dense(weight.double(), x.double(), window)
    size = dense(weight.double().abs(), x.double().abs(), window)
    most = (weight[0].numel() + 2) * (2**-24 * size + 2.0**-149)
    assert found.shape == wanted.shape
    assert ((found.double() - wanted).abs() <= most).all()


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("density", [0, 0.2, 1])
def test_any_window(window: Any, density: float) -> None:
    for outputs, channels in ((1, 1), (17, 3), (5, 15)):
        weight = weight_of(outputs, channels, window, density)
        for height, width in ((15, 17), (9, 13), (31, 8)):
            x = torch.randn(2, channels, height, width)
            for form in (Form(16, 8), Form(4096, 3)):
                assert_close(convolved(weight, x, window, form), weight, x, window)


@pytest.mark.parametrize("width", range(1, 70, 7))
def test_every_count_of_vectors(width: int) -> None:
    window = (3, 3, 1, 1, 1, 1, 1, 1)
    weight, x = weight_of(9, 4, window, 0.3), torch.randn(1, 4, 3, width)
    assert_close(convolved(weight, x, window, Form(512, 8)), weight, x, window)


def test_several_chunks_and_empty_rows() -> None:
    window = (3, 3, 1, 1, 1, 1, 1, 1)
    weight = weight_of(CHUNK + 5, 6, window, 0.2)
    weight[7:500] = 0
    weight[:, :3] = 0
    x = torch.randn(1, 6, 9, 9)
    for form in (Form(16, 8), Form(4096, 5)):
        assert_close(convolved(weight, x, window, form), weight, x, window)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("window", WINDOWS[2:5], ids=str)
def test_what_follows(
    native: bool, window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(sparse_product, "_compiled", lambda: None)
    torch.manual_seed(0)
    weight, x = weight_of(12, 5, window, 0.3), torch.randn(2, 5, 11, 10)
    scale, shift = torch.randn(12), torch.randn(12)
    for after in (
        After(scale),
        After(None, shift, "relu"),
        After(scale, shift, "silu"),
    ):
        wanted = after(dense(weight, x, window))
        found = convolved(weight, x, window, Form(64, 8), after)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    x = torch.full_like(x, 2.0**-140)
    assert_close(convolved(weight, x, window, Form(64, 8)), weight, x, window)


def test_odd_numbers_touch_only_windows_that_read_them() -> None:
    window = (3, 3, 1, 1, 1, 1, 1, 1)
    weight = weight_of(8, 4, window, 0.3)
    x = torch.randn(1, 4, 9, 9)
    x[0, 1, 4, 4], x[0, 2, 0, 0] = math.nan, math.inf
    found = convolved(weight, x, window, Form(64, 8))
    reads = dense((weight != 0).float(), (~x.isfinite()).float(), window) > 0
    assert torch.equal(~found.isfinite(), reads)
    found = convolved(
        weight, x * math.nan, window, Form(64, 8), After(activation="relu")
    )
    assert found[:, weight.flatten(1).any(1)].isnan().all()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    window = (3, 3, 2, 2, 1, 1, 1, 1)
    weight, before = weight_of(2 * CHUNK, 4, window, 0.2), torch.get_num_threads()
    for shape in ((1, 4, 5, 5), (3, 4, 20, 20)):
        x = torch.randn(shape)
        alone = convolved(weight, x, window, Form(16, 4))
        try:
            torch.set_num_threads(threads)
            assert torch.equal(convolved(weight, x, window, Form(16, 4)), alone)
        finally:
            torch.set_num_threads(before)


def test_any_layout() -> None:
    window = (3, 3, 1, 1, 1, 1, 1, 1)
    weight, x = weight_of(8, 4, window, 0.3), torch.randn(2, 4, 9, 7)
    wanted = convolved(weight, x, window, Form(64, 8))
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        torch.randn(2, 4, 9, 14)[..., ::2].copy_(x),
    ):
        assert torch.equal(convolved(weight, other, window, Form(64, 8)), wanted)


def test_the_operator() -> None:
    window = [3, 3, 2, 1, 1, 0, 1, 2]
    weight, x = weight_of(8, 4, window, 0.3), torch.randn(2, 4, 9, 7)
    packed = list(pack(weight.flatten(1), Form(64, 8))[:5])
    for scale, name in ((None, "none"), (torch.randn(8), "relu")):
        torch.library.opcheck(
            torch.ops.sparsefx.packed_conv.default,
            (x, packed, scale, scale, name, window, 8, 8),
        )


def test_nothing_native_is_called_for_other_types() -> None:
    window = (3, 3, 1, 1, 1, 1, 1, 1)
    weight, x = weight_of(8, 4, window, 0.3).double(), torch.randn(1, 4, 5, 5).double()
    y = torch.empty(1, 8, 5, 5, dtype=torch.float64)
    convolve(x, pack(weight.flatten(1), Form(64, 8)), window, After(), y, 8)
    torch.testing.assert_close(y, dense(weight, x, window), atol=1e-12, rtol=1e-12)
    assert sparse_convolution.size_of(x, window) == (5, 5)
