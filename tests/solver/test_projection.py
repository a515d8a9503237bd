"""The soft and hard top-k against golden vectors, NumPy and finite differences."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.errors import BudgetError, MaskError
from sparsefx.solver.projection import hard_topk, project, solve_multiplier
from tests import reference

DOUBLE = {"dtype": torch.float64}
G1_W = torch.tensor([0.9, -0.1, 0.4, -0.6, 0.05, 0.3], **DOUBLE)
G1_C = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0, 3.0], **DOUBLE)
G1_G = torch.tensor([0.2, -0.5, 1.0, 0.7, -0.3, 0.4], **DOUBLE)


def close(actual, expected, tolerance=1e-10):
    expected = torch.as_tensor(expected, **DOUBLE)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@st.composite
def problems(draw, ties=True):
    """Values, costs, a fraction of the total cost and beta."""
    size = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**31))
    kind = draw(st.sampled_from(["smooth", "levels", "zeros", "equal"]))
    rng = np.random.default_rng(seed)
    values = np.abs(rng.normal(size=size)) + 1e-3
    if ties and kind == "levels":
        values = rng.integers(0, 4, size) / 4.0
    elif ties and kind == "zeros":
        values = values * (rng.random(size) < 0.2)
    elif ties and kind == "equal":
        values = np.full(size, 0.7)
    costs = np.ones(size)
    if draw(st.booleans()):
        costs = 10.0 ** rng.uniform(-2, 2, size)
    return (
        torch.from_numpy(values),
        torch.from_numpy(costs),
        draw(st.floats(0.01, 0.99)),
        10.0 ** draw(st.floats(-2, 3)),
    )


def test_golden_g1() -> None:
    w = G1_W.clone().requires_grad_()
    v = w.abs()
    v.retain_grad()
    c = G1_C.clone().requires_grad_()
    k, beta = (torch.tensor(x, **DOUBLE, requires_grad=True) for x in (3.0, 5.0))
    mask, mu = project(v, c, k, beta)
    close(mu, -2.0517114381684824)
    golden = [0.920436206537, 0.174839220759, 0.258896593163]
    close(mask, [*golden, 0.720770863769, 0.141642860331, 0.174839220759])
    (mask * w * G1_G).sum().backward()
    golden = [0.0583263663378, 0.0211276769616, 0.172000122149]
    close(v.grad, [*golden, -0.443487992949, -0.0217087553855, 0.0139141535794])
    golden = [0.242413607645, -0.108547287341, 0.430896715311]
    close(w.grad, [*golden, 0.948027597588, -0.0642016134848, 0.0838498418832])
    close(k.grad, 0.0207110161814)
    close(beta.grad, -0.0279194882411)
    golden = [-0.0715568988715, -0.00573386562644, -0.03976203596]
    close(c.grad, [*golden, 0.251164898747, -0.00184812980301, -0.00501251328823])


def test_golden_g3_blocks() -> None:
    values = torch.tensor([[1.4, 2.2], [1.75, 1.6]], **DOUBLE)
    mask, mu = project(values, 4.0, 8.0, 5.0)
    close(mu, -2.169546396050746)
    golden = [[0.39662529867, 0.641171773917], [0.504488280428, 0.457714646984]]
    close(mask, golden)


@settings(max_examples=60)
@given(problems())
def test_mask_and_gradients_equal_the_reference(problem: Any) -> None:
    v, c, fraction, beta = problem
    k = fraction * float(c.sum())
    expected, _ = reference.soft_topk(v.numpy(), c.numpy(), k, beta)
    leaves = [
        torch.as_tensor(x, **DOUBLE).clone().requires_grad_() for x in (v, c, k, beta)
    ]
    mask, _ = project(*leaves)
    assert abs(float((c * mask.detach()).sum()) - k) <= 1e-11 * k
    close(mask.detach(), expected, 1e-8)
    upstream = torch.linspace(-1.0, 1.0, v.numel(), **DOUBLE)
    (mask * upstream).sum().backward()
    gradients = reference.soft_topk_gradients(
        v.numpy(), c.numpy(), k, beta, upstream.numpy()
    )
    for leaf, name in zip(leaves, ("values", "costs", "budget", "beta"), strict=True):
        wanted = gradients[name]
        scale = float(np.abs(wanted).max()) + 1e-9
        assert np.abs(leaf.grad.numpy() - wanted).max() <= 1e-5 * scale + 1e-9


@pytest.mark.parametrize("beta", [1.0, 5.0, 20.0])
def test_gradients_equal_finite_differences(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(12, generator=generator, **DOUBLE)
    c = torch.rand(12, generator=generator, **DOUBLE) + 0.5
    k, b = torch.tensor(4.0, **DOUBLE), torch.tensor(beta, **DOUBLE)
    leaves = [x.requires_grad_() for x in (v, c, k, b)]
    # both outputs, all four arguments: the multiplier is differentiable as well
    assert torch.autograd.gradcheck(
        project, leaves, eps=1e-5, atol=1e-7, rtol=1e-5, nondet_tol=0.0
    )


@settings(max_examples=60)
@given(problems())
def test_hard_is_the_largest_prefix(problem: Any) -> None:
    v, c, fraction, _ = problem
    k = fraction * float(c.sum())
    mask = hard_topk(v, c, k)
    assert mask.tolist() == reference.hard_topk(v.numpy(), c.numpy(), k).tolist()
    assert float(c[mask].sum()) <= k * (1 + 1e-12)
    more = hard_topk(v, c, 1.3 * k)
    assert bool((more | ~mask).all())


@settings(max_examples=60)
@given(problems(ties=False), st.randoms(use_true_random=False))
def test_permuting_entries_permutes_masks(problem: Any, random: Any) -> None:
    v, c, fraction, beta = problem
    k = fraction * float(c.sum())
    order = list(range(v.numel()))
    random.shuffle(order)
    mask, _ = project(v, c, k, beta)
    permuted, _ = project(v[order], c[order], k, beta)
    close(permuted, mask[order])
    assert torch.equal(hard_topk(v[order], c[order], k), hard_topk(v, c, k)[order])


@settings(max_examples=40)
@given(problems(), st.floats(-8, 8))
def test_the_unit_of_cost_is_free(problem: Any, exponent: float) -> None:
    v, c, fraction, beta = problem
    k, unit = fraction * float(c.sum()), 2.0 ** round(exponent)
    mask, _ = project(v, c, k, beta)
    scaled, _ = project(v, c * unit, k * unit, beta * unit)
    close(scaled, mask, 1e-9)
    assert torch.equal(hard_topk(v, c * unit, k * unit), hard_topk(v, c, k))


@settings(max_examples=40)
@given(problems(), st.floats(1.0, 2.0))
def test_more_budget_keeps_more(problem: Any, factor: float) -> None:
    v, c, fraction, beta = problem
    k = fraction * float(c.sum())
    less, _ = project(v, c, k, beta)
    more, _ = project(v, c, k * factor, beta)
    assert bool((more >= less - 1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_and_shapes(dtype: torch.dtype) -> None:
    values = torch.rand(5, 1, 7, dtype=dtype)
    mask, mu = project(values, torch.tensor([1.0, 2.0, 3, 4, 5, 6, 7]), 30.0, 3.0)
    assert mask.dtype == dtype
    assert mask.shape == values.shape
    assert mu.shape == ()
    assert mu.dtype == torch.float64


def test_broadcast_costs_and_float32_leaves_get_gradients_of_their_own_shape() -> None:
    values = torch.rand(3, 4, requires_grad=True)
    costs = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    mask, _ = project(values, costs, torch.tensor(9.0), 2.0)
    mask.square().sum().backward()
    assert values.grad.dtype == costs.grad.dtype == torch.float32
    assert costs.grad.shape == (3, 1)


@pytest.mark.parametrize("budget", [6.0, 7.0, math.inf])
def test_everything_fits_bitwise_ones(budget: float) -> None:
    values = torch.rand(6, requires_grad=True)
    mask, mu = project(values, 1.0, budget, 5.0)
    assert torch.equal(mask, torch.ones(6))
    assert mu == math.inf
    mask.sum().backward()
    assert torch.equal(values.grad, torch.zeros(6))
    assert hard_topk(values, 1.0, budget).all()


def test_ones_despite_rounding_of_the_total() -> None:
    costs = torch.full((1000,), 0.1, **DOUBLE)
    mask, _ = project(torch.rand(1000), costs, 100.0, 5.0)
    assert torch.equal(mask, torch.ones(1000))
    assert int(hard_topk(torch.rand(1000), costs, 10.0).sum()) == 100


def test_no_budget_keeps_nothing() -> None:
    values = torch.rand(6, requires_grad=True)
    mask, mu = project(values, 1.0, 0.0, 5.0)
    mask.sum().backward()
    assert torch.equal(mask, torch.zeros(6))
    assert torch.equal(values.grad, torch.zeros(6))
    assert mu == -math.inf
    assert not hard_topk(values, 1.0, 0.0).any()


def test_no_values() -> None:
    mask, _ = project(torch.zeros(0), 1.0, 0.0, 1.0)
    assert mask.shape == hard_topk(torch.zeros(0), 1.0, 0.0).shape == (0,)


@pytest.mark.parametrize("values", [torch.ones(8), torch.zeros(8)])
def test_ties_share_the_soft_budget_and_break_by_index(values: Tensor) -> None:
    mask, _ = project(values, 1.0, 2.0, 1e6)
    close(mask.double(), torch.full((8,), 0.25), 1e-7)
    assert hard_topk(values, 1.0, 2.0).tolist() == [True] * 2 + [False] * 6


def test_sharp_mask_just_above_a_gap() -> None:
    values = torch.cat([torch.linspace(0.3, 0.4, 100), torch.linspace(0, 0.02, 900)])
    for beta in (100.0, 400.0, 1e6):
        mask, _ = project(values.double(), 1.0, 100.0, beta)
        assert abs(float(mask.sum()) - 100.0) <= 1e-9


def test_second_derivatives_are_refused() -> None:
    values = torch.rand(4, requires_grad=True)
    mask, _ = project(values, 1.0, 2.0, 3.0)
    (grad,) = torch.autograd.grad(mask.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.tensor([1.0, math.nan]), 1.0, 1.0, 1.0), MaskError, "NaN or infinite"),
        ((torch.tensor([1.0, math.inf]), 1.0, 1.0, 1.0), MaskError, "NaN or infinite"),
        ((torch.ones(2), 0.0, 1.0, 1.0), MaskError, "costs must be finite and above"),
        ((torch.ones(2), torch.ones(3), 1.0, 1.0), MaskError, r"shape \(3,\) do not"),
        ((torch.ones(2), 1.0, -0.1, 1.0), BudgetError, "budget is -0.1; it must be"),
        ((torch.ones(2), 1.0, math.nan, 1.0), BudgetError, "budget is nan"),
        ((torch.ones(2), 1.0, 1.0, 0.0), MaskError, "beta is 0.0; it must be one"),
        ((torch.ones(2), 1.0, 1.0, math.inf), MaskError, "beta is inf"),
    ],
)
def test_bad_input(
    arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        project(*arguments)
    if "beta" not in text:
        with pytest.raises(error, match=text):
            hard_topk(*arguments[:3])


def test_multiplier_of_a_step_ends_at_the_nearest_side() -> None:
    """Where no multiplier meets the target, the nearest that was measured."""
    measured = []

    def step(mu):
        measured.append(mu)
        return (0.3 if mu < 1.0 else 0.9), 0.0

    mu, sweeps = solve_multiplier(
        step, 0.5, 1.0, start=0.0, low=-5.0, high=5.0, rtol=1e-9
    )
    assert mu in measured
    assert mu < 1.0
    assert sweeps == len(measured) <= 200
