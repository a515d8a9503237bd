"""Activations inside the products are torch's, of the sums that they would have got."""

import math

import pytest
import torch
from torch import Tensor

from sparsefx.kernels import sparse_product
from sparsefx.kernels.activation import ACTIVATIONS
from sparsefx.kernels.sparse_product import Form, pack, product


def through_an_identity(x: Tensor, activation: str, form: Form) -> Tensor:
    """``x (features, tokens)`` times one, activated."""
    y = torch.full_like(x, math.nan)
    packed = pack(torch.eye(len(x)), form)
    product(x[None], packed, None, y[None], form.vectors, activation)
    return y


@pytest.mark.parametrize("tokens", [1, 7, 64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_all_numbers(name: str, tokens: int) -> None:
    made = torch.Generator().manual_seed(tokens)
    spread = torch.linspace(-30, 30, 21 * tokens)
    x = torch.cat([spread, torch.randn(21 * tokens, generator=made)]).view(-1, tokens)
    found = through_an_identity(x, name, Form(16, 8))
    wanted = ACTIVATIONS[name](x.double())
    assert ((found - wanted).abs() <= 3e-7 * x.abs().clamp(min=1)).all()
    far = x < -6  # what is all but zero keeps its sign, and nothing more
    assert (found[far] <= 0).all() if name != "none" else True


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_numbers_and_infinities(name: str) -> None:
    x = torch.tensor([[math.nan, math.inf, -1e30, 1e30, 0.0, 1e-40]])
    found = through_an_identity(x, name, Form(16, 8))
    torch.testing.assert_close(
        found, ACTIVATIONS[name](x), equal_nan=True, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_of_sums_with_a_bias(
    name: str, int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(600, 90, generator=made)
    weight *= torch.rand(weight.shape, generator=made) < 0.1
    x, bias = torch.randn(2, 90, 19, generator=made), torch.randn(600, generator=made)
    form = Form(32, 8, int8=int8)
    packed, sums = pack(weight, form), torch.empty(2, 600, 19)
    product(x, packed, bias, sums, 8)
    found, plain = torch.empty_like(sums), torch.empty_like(sums)
    product(x, packed, bias, found, 8, name)
    torch.testing.assert_close(found, ACTIVATIONS[name](sums), atol=2e-6, rtol=1e-6)
    monkeypatch.setattr(sparse_product, "_compiled", lambda: None)
    product(x, packed, bias, plain, 8, name)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
