"""Products in int8 are whole numbers' sums, scaled; nothing leaves 16 bits."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from sparsefx.kernels import sparse_product
from sparsefx.kernels.sparse_product import (
    CHUNK,
    MOST,
    Form,
    in_torch,
    pack,
    product,
    rounded,
)
from sparsefx.lowering import sparse_ops as _registered  # noqa: F401

FORMS = [
    partial(Form, int8=True)(*sizes) for sizes in ((4, 8), (64, 13), (8191, 5), (9, 3))
]
SIZES = [1, 15, 17, 63, 65]


def whole(outputs: int, features: int, density: float, seed: int = 0) -> Tensor:
    """Whole weights up to 63, which every row has: their scale is one."""
    made = torch.Generator().manual_seed(seed + outputs + 100 * features)
    weight = torch.randint(-MOST, MOST + 1, (outputs, features), generator=made)
    weight *= torch.rand(weight.shape, generator=made) < density
    weight[:, 0] = MOST * (1 - 2 * (torch.arange(outputs) % 2)) * (density > 0)
    return weight.float()


def tokens_of(features: int, tokens: int, batch: int = 1) -> Tensor:
    """Whole activations from 0 to 255, which every token has: their scale is one."""
    x = torch.randint(0, 256, (batch, features, tokens)).float()
    x[:, 0] = 255
    x[:, -1] = 0 if features > 1 else 255
    return x


def multiplied(weight: Tensor, x: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    y = torch.full((x.shape[0], len(weight), x.shape[2]), math.nan)
    product(x, pack(weight, form), bias, y, form.vectors)
    return y


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_whole_numbers_are_exact(form: Form, density: float) -> None:
    for outputs in SIZES:
        for features in SIZES:
            weight = whole(outputs, features, density)
            for tokens in (1, 7, 17, 65):
                x = tokens_of(features, tokens, 2)
                wanted = (weight.double() @ x.double()).float()
                assert torch.equal(multiplied(weight, x, None, form), wanted)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_largest_sums_fit(form: Form) -> None:
    """All weights and activations at their ends, where 16 bits are nearly full."""
    for sign in (1, -1):
        weight = torch.full((3, 4096), float(MOST * sign))
        x = torch.full((1, 4096, 9), 255.0)
        x[:, -1] = 0
        found = multiplied(weight, x, None, form)
        assert (found == MOST * sign * 255 * 4095).all()


@pytest.mark.parametrize("tokens", range(1, 110, 9))
def test_every_count_of_vectors(tokens: int) -> None:
    weight, x = whole(40, 70, 0.3), tokens_of(70, tokens)
    found = multiplied(weight, x, None, FORMS[1])
    assert torch.equal(found, weight @ x)


def reference(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """What rounding to 8 bits gives, in float64, by tokens' and rows' own scales."""
    levels, scales = rounded(weight)
    p = levels[:, : weight.shape[1]].double() * scales[:, :1].double()
    low, high = x.double().amin(1, keepdim=True), x.double().amax(1, keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-300)
    q = ((x.double() - low) / step).round()
    return p @ (low + step * q) + bias.double()[:, None]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_any_numbers_are_rounded_once(form: Form) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2 * CHUNK + 5, 70) * (torch.rand(2 * CHUNK + 5, 70) < 0.2)
    weight[7:600] = 0
    bias = torch.randn(len(weight))
    for x in (torch.randn(2, 70, 30), torch.rand(1, 70, 1), -torch.rand(1, 70, 9) - 5):
        found = multiplied(weight, x, bias, form)
        wanted = reference(weight, x, bias)
        # where a level lies between two, either may be taken: a step of one activation
        step = ((x.amax(1) - x.amin(1)) / 255).amax()
        most = 2e-6 * wanted.abs().max() + 2 * step * weight.abs().max()
        assert (found - wanted).abs().max() <= most
        assert (found - wanted).abs().mean() <= 0.05 * step
        exact = weight.double() @ x.double() + bias.double()[:, None]
        assert (found - exact).abs().max() < 0.06 * exact.abs().max()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_plain_torch_does_the_same(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(70, 65) * (torch.rand(70, 65) < 0.2)
    x, bias = torch.randn(2, 65, 20), torch.randn(70)
    found = multiplied(weight, x, bias, form)
    there = in_torch(x[0], pack(weight, form), 70) + bias[:, None]
    torch.testing.assert_close(there, found[0], atol=0.02, rtol=0)
    assert (there - found[0]).abs().mean() < 1e-4
    monkeypatch.setattr(sparse_product, "_compiled", lambda: None)
    assert torch.equal(multiplied(weight, x, bias, form)[0], there)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("native", [True, False])
def test_odd_numbers_touch_only_their_token(
    form: Form, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(sparse_product, "_compiled", lambda: None)
    weight, x, bias = whole(20, 40, 0.3), tokens_of(40, 12), torch.randn(20)
    wanted = multiplied(weight, x, bias, form)
    x[0, 3, 2], x[0, 9, 5], x[0, 0, 7] = math.nan, math.inf, -math.inf
    found = multiplied(weight, x, bias, form)
    odd = torch.tensor([2, 5, 7])
    assert found[..., odd].isnan().all()
    rest = [t for t in range(12) if t not in odd]
    assert torch.equal(found[..., rest], wanted[..., rest])


@pytest.mark.parametrize("value", [0.0, 2.0**-140, 3.5, -1e30])
def test_tokens_of_one_value(value: float) -> None:
    weight, bias = torch.randn(20, 40), torch.randn(20)
    x = torch.full((1, 40, 3), value)
    levels, scales = rounded(weight)
    exact = (levels.double() * scales[:, :1].double()).sum(1)[:, None] * value
    found = multiplied(weight, x, bias, FORMS[1])[0]
    torch.testing.assert_close(
        found.double(), (exact + bias.double()[:, None]).expand(20, 3),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_four_weights_are_six_bytes() -> None:
    weight = whole(CHUNK + 30, 300, 0.05)
    packed = pack(weight, FORMS[1])
    pieces = (weight.reshape(len(weight), -1, 4) != 0).any(2).sum()
    assert packed.columns.nbytes + packed.values.nbytes == 6 * pieces


def test_weights_are_rounded_to_the_nearest() -> None:
    weight = torch.randn(33, 30)
    weight[4] = 0
    levels, scales = rounded(weight)
    assert levels.shape == (33, 32)
    assert levels.abs().max() == MOST
    near = levels[:, :30] * scales[:, :1]
    assert (
        (near - weight).abs() <= weight.abs().amax(1, keepdim=True) / MOST / 2
    ).all()
    torch.testing.assert_close(scales[:, 1], near.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    weight, bias = torch.randn(3 * CHUNK, 60), torch.randn(3 * CHUNK)
    before = torch.get_num_threads()
    for shape in ((1, 60, 1), (1, 60, 40), (3, 60, 90)):
        x = torch.randn(shape)
        alone = multiplied(weight, x, bias, Form(32, 4, int8=True))
        try:
            torch.set_num_threads(threads)
            found = multiplied(weight, x, bias, Form(32, 4, int8=True))
            assert torch.equal(found, alone)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("last", [True, False])
def test_the_operator(last: bool) -> None:
    weight = torch.randn(20, 30) * (torch.rand(20, 30) < 0.3)
    x = torch.randn(2, 5, 30) if last else torch.randn(2, 30, 5)
    packed = list(pack(weight, Form(4, 8, int8=True)))
    for bias in (None, torch.randn(20)):
        torch.library.opcheck(
            torch.ops.sparsefx.packed_mm.default, (x, packed, bias, 20, 8, last, "none")
        )
