"""N of every M: which weights stay, and the soft top of each run."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.n_of_m import NOfM, soft_top
from tests.grouped_models import labels, members
from tests.reference import bisect, sigmoid


@pytest.mark.parametrize(
    ("shape", "op"),
    [((4, 8), "linear"), ((3, 8, 2, 2), "conv2d"), ((8, 3, 2), "conv_transpose1d")],
)
@pytest.mark.parametrize("text", ["2:4", "1:2", "5:8"])
def test_n_of_m_keeps_n_of_every_m(text: str, shape: tuple[int, ...], op: str) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape).round(decimals=1)  # with ties
    groups = grouping(text, shape, op)
    n, m = groups.kept, groups.of
    top = groups.top(weight)
    for of in members(labels(text, shape, op.startswith("conv_transpose"))).values():
        assert len(of) == m
        ranked = sorted(of, key=lambda i: (-abs(float(weight[i])), i))
        assert {i for i in of if top[i]} == set(ranked[:n])
    assert groups.base + groups.size == weight.numel()
    rest = weight.abs()[~top].mean()
    torch.testing.assert_close(groups.values(weight)[0], rest)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (2, 4), (3, 8), (1, 64)]),
       st.sampled_from([1e-3, 1.0, 30.0, 1e4]))  # fmt: skip
def test_the_soft_top_meets_its_sum(
    seed: int, pair: tuple[int, ...], slope: float
) -> None:
    n, m = pair
    rng = np.random.default_rng(seed)
    a = np.abs(rng.normal(size=(5, m))).round(1)
    found = soft_top(torch.from_numpy(a), slope, n).numpy()
    assert found.sum(1) == pytest.approx(np.full(5, n), rel=1e-9)
    for row, mine in zip(a, found, strict=True):
        z = slope * row
        even = math.log(n / (m - n))
        mu = bisect(lambda mu, z=z: sigmoid(z + mu).sum(), n, even - z.max() - 1,
                    even - z.min() + 1)  # fmt: skip
        np.testing.assert_allclose(mine, sigmoid(z + mu), atol=1e-7)


def test_the_soft_top_is_differentiated_through_its_sum() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 8, dtype=torch.float64)
    groups = grouping("2:4", (4, 8), "linear")
    assert isinstance(groups, NOfM)
    slope = torch.tensor(3.0, dtype=torch.float64)
    pushed, way = torch.randn_like(weight), torch.randn_like(weight)
    ahead, behind = (groups.soft(weight + e * way, slope) for e in (1e-6, -1e-6))
    found = groups.soft_pull(weight, groups.soft(weight, slope), slope, pushed)
    wanted = (pushed * (ahead - behind) / 2e-6).sum()
    torch.testing.assert_close((found * way).sum(), wanted, rtol=1e-6, atol=1e-8)
