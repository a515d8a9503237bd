"""Products over kept entries are those of the dense weight, in float64."""

import pytest
import torch
from torch import Tensor

from sparsefx.kernels.support_products import (
    forward,
    input_gradient,
    layout,
    usable,
    value_gradient,
)

SIZES = [(1, 1, 1), (3, 5, 2), (65, 63, 33), (8, 300, 47), (600, 17, 64), (40, 257, 97)]
DENSITIES = [0.0, 0.03, 0.3, 1.0]

pytestmark = pytest.mark.skipif(
    not usable(torch.ones(1)), reason="no C++ compiler: nothing to test"
)


def some(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def mask_of(outputs: int, features: int, density: float) -> Tensor:
    """With an empty row, and an empty column, where there are several."""
    chance = torch.Generator().manual_seed(outputs)
    mask = torch.rand(outputs, features, generator=chance) < density
    if density < 1 and outputs > 1 and features > 1:
        mask[outputs // 2], mask[:, features // 2] = False, False
    return mask


def assert_near(found: Tensor, wanted: Tensor, size: Tensor, terms: int) -> None:
    """Within the rounding of float32 sums of so many terms, in any order."""
    assert ((found.double() - wanted).abs() <= (terms + 2) * 2**-24 * size).all()


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_all_three_products(sizes: tuple[int, int, int], density: float) -> None:
    outputs, features, tokens = sizes
    mask = mask_of(outputs, features, density)
    weight, bias = some(outputs, features) * mask, some(outputs)
    x, g, values, where = (
        some(tokens, features),
        some(tokens, outputs),
        weight[mask],
        layout(mask),
    )
    w, x_, g_ = weight.double(), x.double(), g.double()
    y = forward(x, values, bias, where, outputs)
    size = x_.abs() @ w.abs().t() + bias.abs()
    assert_near(y, x_ @ w.t() + bias, size, features)
    dx = input_gradient(g, values, where, features)
    assert_near(dx, g_ @ w, g_.abs() @ w.abs(), outputs)
    dv = value_gradient(g, x, where)
    size = (g_.abs().t() @ x_.abs())[mask]
    assert_near(dv, (g_.t() @ x_)[mask], size, tokens)


def test_layouts_of_activations_do_not_matter() -> None:
    mask = mask_of(33, 70, 0.2)
    values, where, x, g = some(33, 70)[mask], layout(mask), some(50, 70), some(50, 33)
    turned = x.t().contiguous().t(), g.t().contiguous().t()
    strided = torch.stack([x, x], -1)[..., 0], torch.stack([g, g], -1)[..., 0]
    expanded = x[:1].expand(50, -1), g[:1].expand(50, -1)
    for a, b in (turned, strided, expanded):
        assert torch.equal(
            forward(a, values, None, where, 33),
            forward(a.contiguous(), values, None, where, 33),
        )
        assert torch.equal(
            value_gradient(b, a, where),
            value_gradient(b.contiguous(), a.contiguous(), where),
        )


def test_threads_do_not_change_the_sums() -> None:
    mask = mask_of(600, 300, 0.1)
    where, x, g = layout(mask), some(70, 300), some(70, 600)
    alone = value_gradient(g, x, where)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(value_gradient(g, x, where), alone)
    finally:
        torch.set_num_threads(before)


def test_values_that_are_no_numbers_show() -> None:
    mask = torch.eye(9, dtype=torch.bool)
    g, x = torch.ones(3, 9), torch.ones(3, 9)
    x[1, 4] = torch.nan
    found = value_gradient(g, x, layout(mask))
    assert found.isnan().tolist() == [i == 4 for i in range(9)]
