"""Rows of inputs times a weight's matrices are what the layer makes of its input."""

import pytest
import torch
import torch.nn.functional as F

from sparsefx.pruning.products import Weights

X1, X2 = torch.randn(3, 4, 11), torch.randn(3, 4, 9, 7)
X3 = torch.randn(2, 4, 5, 6, 4)
CASES = {
    "linear": (F.linear, (torch.randn(2, 3, 5), torch.randn(6, 5)), {}),
    "keywords": (F.linear, (torch.randn(2, 5),), {"weight": torch.randn(6, 5)}),
    "addmm": (torch.addmm, (torch.zeros(6), torch.randn(7, 5), torch.randn(5, 6)), {}),
    "matmul": (torch.matmul, (torch.randn(2, 7, 5), torch.randn(5, 5)), {}),
    "operator": (torch.Tensor.__matmul__, (torch.randn(7, 5), torch.randn(5, 6)), {}),
    "conv1d": (F.conv1d, (X1, torch.randn(6, 4, 3)), {"stride": 2, "padding": 1}),
    "conv2d": (F.conv2d, (X2, torch.randn(6, 4, 3, 2)), {"dilation": (2, 1)}),
    "groups": (F.conv2d, (X2, torch.randn(6, 2, 3, 3)), {"groups": 2}),
    "depthwise": (F.conv2d, (X2, torch.randn(4, 1, 3, 3), None, 2, 1, 1, 4), {}),
    "same": (
        F.conv2d,
        (X2, torch.randn(6, 4, 3, 2)),
        {"padding": "same", "dilation": 2},
    ),
    "valid": (F.conv1d, (X1, torch.randn(6, 4, 3)), {"padding": "valid"}),
    "conv3d": (F.conv3d, (X3, torch.randn(6, 4, 2, 3, 1)), {"padding": (0, 1, 2)}),
    "no batch": (F.conv1d, (X1[0], torch.randn(6, 4, 3)), {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_times_matrices_are_the_product(case) -> None:
    func, args, kwargs = case
    weight = kwargs.get("weight", args[2 if func is torch.addmm else 1 % len(args)])
    found = Weights([("w", weight)]).product(func, args, kwargs)
    assert found is not None
    rows, matrices = found.rows(None, None, 0), found.form.matrices(weight)
    made = rows @ matrices.mT  # groups, rows, outputs
    out = func(*args, **kwargs)
    if func in (F.conv1d, F.conv2d, F.conv3d):
        out = out if out.ndim == weight.ndim else out[None]
        out = out.movedim(1, -1).flatten(0, -2)
        made = made.transpose(0, 1).flatten(1)
    assert torch.allclose(made.reshape(out.shape), out, atol=1e-4)
    assert torch.equal(found.form.back(matrices), weight)


def test_patches_are_drawn_where_there_are_many() -> None:
    weight = torch.randn(6, 4, 3)
    found = Weights([("w", weight)]).product(F.conv1d, (X1, weight), {})
    every, some = (found.rows(None, most, 0)[0] for most in (None, 5))
    assert some.shape == (5, 12)
    assert all(any(torch.equal(row, one) for one in every) for row in some)


def test_transposed_views_are_known_and_parts_are_not() -> None:
    weight, x = torch.randn(5, 5), torch.randn(3, 5)
    known = Weights([("w", weight)])
    for func, view, flipped in (
        (F.linear, weight, False),
        (F.linear, weight.t(), True),
        (torch.matmul, weight, True),
        (torch.matmul, weight.t(), False),
    ):
        found = known.product(func, (x, view), {})
        assert found.form.flipped == flipped
        made = found.rows(None, None, 0) @ found.form.matrices(weight).mT
        assert torch.allclose(made[0], func(x, view), atol=1e-5)
    assert known.product(F.linear, (x, weight[:3]), {}) is None
    assert known.product(F.linear, (x, torch.randn(5, 5)), {}) is None
    assert known.product(F.relu, (weight,), {}) is None
