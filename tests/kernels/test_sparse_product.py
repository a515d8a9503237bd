"""The product of a packed weight is that of the dense one, in float64."""

import math

import pytest
import torch
from torch import Tensor

from sparsefx.kernels import sparse_product
from sparsefx.kernels.sparse_product import CHUNK, Form, in_torch, pack, product
from sparsefx.lowering import sparse_ops as _registered  # noqa: F401

FORMS = [Form(16, 8), Form(128, 13), Form(32767, 5), Form(33, 3, 4), Form(128, 13, 4)]
SIZES = [1, 15, 17, 63, 65]


def weight_of(outputs: int, features: int, density: float, together: int = 1) -> Tensor:
    made = torch.Generator().manual_seed(outputs + 100 * features)
    rows = -(-outputs // together)
    kept = torch.rand(rows, 1, features, generator=made) < density
    weight = torch.randn(rows, together, features, generator=made) * kept
    return weight.reshape(rows * together, features)


def laid_out(shape: tuple[int, ...], layout: str) -> Tensor:
    """Memory full of NaN: what is not written shows."""
    order = {"features": (0, 1, 2), "tokens": (0, 2, 1), "apart": (1, 2, 0)}[layout]
    made = torch.full([shape[i] for i in order], math.nan)
    return made.permute([order.index(i) for i in range(3)])


def multiplied(
    weight: Tensor, x: Tensor, bias: Tensor | None, form: Form, layout: str = "features"
) -> Tensor:
    y = laid_out((x.shape[0], len(weight), x.shape[2]), layout)
    product(x, pack(weight, form), bias, y, form.vectors)
    return y


def exact(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    y = weight.double() @ x.double()
    return y if bias is None else y + bias.double()[:, None]


def assert_close(found: Tensor, weight: Tensor, x: Tensor, bias: Tensor | None) -> None:
    """Within the rounding of float32 sums, whatever their order; also of denormals."""
    wanted = exact(weight, x, bias)
    size = weight.double().abs() @ x.double().abs()
    size = size if bias is None else size + bias.double().abs()[:, None]
    steps = weight.shape[1] + 2
    most = steps * (2**-24 * size + 2.0**-149)
    assert ((found.double() - wanted).abs() <= most).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("density", [0, 0.1, 0.5, 1])
def test_products_of_odd_sizes(form: Form, density: float) -> None:
    for outputs in SIZES:
        for features in SIZES:
            weight = weight_of(outputs, features, density, form.together)
            for tokens in (1, 7, 17, 65):
                x = torch.randn(2, features, tokens)
                bias = torch.randn(len(weight)) if tokens > 1 else None
                assert_close(multiplied(weight, x, bias, form), weight, x, bias)


@pytest.mark.parametrize("tokens", range(1, 110, 4))
def test_every_count_of_vectors(tokens: int) -> None:
    weight, x = weight_of(40, 70, 0.3), torch.randn(1, 70, tokens)
    for form in (Form(32, 13), Form(32, 13, 4)):
        assert_close(multiplied(weight, x, None, form), weight, x, None)


@pytest.mark.parametrize("layout", ["features", "tokens", "apart"])
def test_any_layout(layout: str) -> None:
    weight, bias = weight_of(70, 50, 0.3), torch.randn(70)
    for tokens in (1, 16, 21):
        x = laid_out((2, 50, tokens), layout).copy_(torch.randn(2, 50, tokens))
        for other in ("features", "tokens", "apart"):
            y = multiplied(weight, x, bias, Form(16, 8), other)
            assert_close(y, weight, x, bias)


def test_several_chunks_and_empty_rows() -> None:
    weight = weight_of(2 * CHUNK + 5, 40, 0.2)
    weight[7:600] = 0
    weight[:, :20] = 0
    for tokens in (1, 30):
        x, bias = torch.randn(1, 40, tokens), torch.randn(len(weight))
        for form in (Form(16, 8), Form(40, 5)):
            assert_close(multiplied(weight, x, bias, form), weight, x, bias)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    weight, bias = weight_of(3 * CHUNK, 60, 0.2), torch.randn(3 * CHUNK)
    before = torch.get_num_threads()
    for shape in ((1, 60, 1), (1, 60, 40), (3, 60, 90)):
        x = torch.randn(shape)
        alone = multiplied(weight, x, bias, Form(32, 4))
        try:
            torch.set_num_threads(threads)
            assert torch.equal(multiplied(weight, x, bias, Form(32, 4)), alone)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("tokens", [1, 20])
def test_odd_numbers_touch_only_what_reads_them(form: Form, tokens: int) -> None:
    weight = weight_of(64, 40, 0.2, form.together)
    x = torch.randn(1, 40, tokens)
    x[0, 3], x[0, 20] = math.nan, math.inf
    y = multiplied(weight, x, None, form)[0]
    for row, found in zip(weight, y, strict=True):
        if row[3]:
            assert found.isnan().all()
        elif row[20]:
            assert (found == row[20] * math.inf).all()
        else:
            assert found.isfinite().all()
    tiny = torch.full((1, 40, tokens), 2.0**-140)  # denormals
    assert_close(multiplied(weight, tiny, None, form), weight, tiny, None)
    weight[weight != 0] = math.nan
    assert multiplied(weight, tiny, None, form)[0, weight.isnan().any(1)].isnan().all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_plain_torch_does_the_same(form: Form) -> None:
    weight = weight_of(2 * CHUNK + 4, 65, 0.1, form.together)
    weight[:CHUNK] = 0
    for tokens in (1, 20):
        x = torch.randn(65, tokens)
        found = in_torch(x, pack(weight, form), len(weight))
        assert_close(found[None], weight, x[None], None)


def test_what_the_kernel_does_not_take_runs_in_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight, x, bias = weight_of(20, 30, 0.3), torch.randn(2, 30, 5), torch.randn(20)
    wide = [t.double() for t in (weight, x, bias)]
    y = torch.empty(2, 20, 5, dtype=torch.float64)
    product(wide[1], pack(wide[0], Form(8, 8)), wide[2], y, 8)
    torch.testing.assert_close(y, exact(weight, x, bias), atol=1e-12, rtol=1e-12)
    monkeypatch.setattr(sparse_product, "_compiled", lambda: None)
    assert_close(multiplied(weight, x, bias, Form(8, 8)), weight, x, bias)


def test_entries_are_packed_once_and_nothing_else() -> None:
    weight = weight_of(CHUNK + 30, 300, 0.1)
    packed = pack(weight, Form(128, 8))
    assert packed.values.numel() == weight.count_nonzero()
    assert sorted(packed.values.flatten().tolist()) == sorted(
        weight[weight != 0].tolist()
    )
    bytes_an_entry = packed.columns.element_size() + packed.values.element_size()
    assert bytes_an_entry == 6


@pytest.mark.parametrize("last", [True, False])
def test_the_operator(last: bool) -> None:
    weight = weight_of(20, 30, 0.3)
    x = torch.randn(2, 5, 30) if last else torch.randn(2, 30, 5)
    packed = [part for part in pack(weight, Form(16, 8)) if part is not None]
    for bias in (None, torch.randn(20)):
        torch.library.opcheck(
            torch.ops.sparsefx.packed_mm.default, (x, packed, bias, 20, 8, last, "none")
        )
