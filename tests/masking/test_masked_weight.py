"""The masked weight: values, gradients, the budget's share, types."""

import math

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.kernels.bits import pack
from sparsefx.kernels.mask_rule import MaskScalars, soft_mask
from sparsefx.masking.budget_gradient import couple
from sparsefx.masking.masked_weight import magnitude, masked_weight
from tests import models

DOUBLE = torch.float64


def scalars(beta=5.0, mu=0.0):
    """Mask parameters of one site."""
    values = {"mu": mu, "slope": beta, "center": 0.0}
    return {k: torch.tensor([v], dtype=DOUBLE) for k, v in values.items()}


def all_of(weight):
    """Bits that keep everything."""
    return pack(torch.ones_like(weight, dtype=torch.bool))


def state_of(model) -> nn.Module:
    return model.get_submodule("_sparsefx.weights")


# -- golden vector G1: one budget over entries of different cost -----------------------

W1 = [0.9, -0.1, 0.4, -0.6, 0.05, 0.3]
C1 = [1.0, 1.0, 2.0, 1.0, 1.0, 3.0]
G1 = [0.2, -0.5, 1.0, 0.7, -0.3, 0.4]
MU1 = -2.0517114381684824
M1 = [
    0.920436206537,
    0.174839220759,
    0.258896593163,
    0.720770863769,
    0.141642860331,
    0.174839220759,
]
DW1 = [
    0.242413607645,
    -0.108547287341,
    0.430896715311,
    0.948027597588,
    -0.0642016134848,
    0.0838498418832,
]


def test_golden_gradient() -> None:
    """Six sites of one entry share a multiplier; the costs differ."""
    weights = [torch.tensor([[w]], dtype=DOUBLE, requires_grad=True) for w in W1]
    price = torch.tensor(C1, dtype=DOUBLE)
    count = len(W1)
    mu = torch.full((count,), MU1, dtype=DOUBLE, requires_grad=True)
    vectors = {
        "mu": mu,
        "slope": 5.0 / price,
        "center": torch.zeros(count, dtype=DOUBLE),
    }
    seen = [
        masked_weight(w, all_of(w), **vectors, index=i) for i, w in enumerate(weights)
    ]
    masks = [float(s.detach() / w) for s, w in zip(seen, W1, strict=True)]
    assert masks == pytest.approx(M1, rel=1e-10, abs=1e-12)
    sum(g * s.sum() for g, s in zip(G1, seen, strict=True)).backward()
    m = torch.tensor(M1, dtype=DOUBLE)
    spreads = price * m * (1 - m)
    assert float(spreads.sum()) == pytest.approx(1.3568939473896113, rel=1e-10)
    assert float(mu.grad.sum() / spreads.sum()) == pytest.approx(
        0.020711016181355728, rel=1e-10
    )
    couple(
        weights,
        mu.grad,
        scalars=MaskScalars(mu.detach(), vectors["slope"], vectors["center"]),
        price=price,
        groups=[None] * count,
        shared=torch.zeros(count, dtype=torch.int64),
        spreads=spreads,
    )
    found = [float(w.grad) for w in weights]
    assert found == pytest.approx(DW1, rel=1e-10, abs=1e-12)


# -- finite differences on whole networks ----------------------------------------------


class TwoSizes(nn.Module):
    """Convolution, then linear: weights of different MACs."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, 3, 3), nn.Linear(9, 2)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).flatten(1))


def resolved(state, base: list[Tensor]) -> None:
    """Moves each group's multipliers so that its soft cost is again that of base."""
    for group in set(state.group.tolist()):
        sites = [i for i, g in enumerate(state.group.tolist()) if g == group]

        def cost(weights, shift, sites=sites):
            return sum(
                float(
                    state.price[i]
                    * soft_mask(
                        magnitude(weights[i]),
                        state.slope[i],
                        state.center[i],
                        state.mu0[i] + shift,
                    ).sum()
                )
                for i in sites
            )

        target, low, high = cost(base, 0.0), -1.0, 1.0
        now = [w.detach() for w in state.weights()]
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(now, middle) < target else (low, middle)
        with torch.no_grad():
            for i in sites:
                state.mu[i] = state.mu0[i] + low


@pytest.mark.parametrize("policy", ["cost_budget", "uniform"])
def test_gradients_equal_finite_differences(policy: str) -> None:
    """One group for all layers, or a group a layer; soft masks only."""
    torch.manual_seed(2)
    net = TwoSizes().double()
    x, y = torch.randn(4, 2, 5, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE)
    sparse = sparsefx.transform(net, policy, budget=0.4, example_inputs=(x,), beta=3.0)
    state = state_of(sparse)
    assert len(set(state.group.tolist())) == (1 if policy == "cost_budget" else 2)
    with torch.no_grad():  # everything is kept: the loss is smooth
        for index, weight in enumerate(state.weights()):
            state.take({f"bits_{index}": all_of(weight)})
    state.mu0 = state.mu.detach().clone()
    base = [w.detach().clone() for w in state.weights()]

    def loss():
        return ((sparse(x) - y) ** 2).sum()

    loss().backward()
    for weight in sparse.parameters():
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        scale = float(gradient.abs().max())
        for index in range(0, flat.numel(), 2):
            step, kept, sides = 1e-5, float(flat[index]), []
            for sign in (1, -1):
                flat[index] = kept + sign * step
                resolved(state, base)
                sides.append(float(loss().detach()))
            flat[index] = kept
            wanted = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient[index]) == pytest.approx(
                wanted, rel=1e-5, abs=1e-6 * scale
            )


def test_the_hard_mask_is_straight_through() -> None:
    """With hard masks, the gradient is that of ``<G, m(w) w>``."""
    torch.manual_seed(2)
    net = TwoSizes().double()
    x = torch.randn(4, 2, 5, dtype=DOUBLE)
    sparse = sparsefx.transform(net, budget=0.4, example_inputs=(x,), beta=3.0)
    state = state_of(sparse)
    masks = sparsefx.masks(sparse)
    seen = [sparse.conv.weight, sparse.fc.weight]
    for weight, mask in zip(seen, masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)
    upstream = [torch.randn_like(w) for w in seen]
    sum((g * w).sum() for g, w in zip(upstream, seen, strict=True)).backward()

    weights = [w.detach().clone().requires_grad_() for w in state.weights()]
    shift = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    soft = [
        torch.sigmoid(
            (w.abs() - state.center[i]) * state.slope[i] + state.mu[i].detach() + shift
        )
        for i, w in enumerate(weights)
    ]
    cost = sum(p * m.sum() for p, m in zip(state.price, soft, strict=True))
    value = sum(
        (g * m * w).sum() for g, m, w in zip(upstream, soft, weights, strict=True)
    )
    # shift is what keeps cost(w, shift) constant: the implicit function theorem
    direct = torch.autograd.grad(value, [*weights, shift], retain_graph=True)
    moved = torch.autograd.grad(cost, [*weights, shift])
    for i, weight in enumerate(state.weights()):
        wanted = direct[i] - moved[i] * direct[-1] / moved[-1]
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-9, atol=1e-12)


# -- density 1 -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["cost_budget", "uniform", "erk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_density_one_is_the_identity(policy: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = models.ConvNet().to(dtype)
    x = torch.randn(3, 1, 7, 7).to(dtype)
    sparse = sparsefx.transform(net, policy, budget=1.0, example_inputs=(x,))
    results = []
    for model in (net, sparse):
        model.train()
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        model.eval()
        with torch.no_grad():
            results.append([out.detach(), *gradients, model(x)])
        net.norm.reset_running_stats()
    dense, masked = results
    assert all(torch.equal(a, b) for a, b in zip(dense, masked, strict=True))
    assert sparsefx.finalize(sparse)(x).equal(net.eval()(x))


def test_density_one_keeps_signed_zeros_and_tiny_weights() -> None:
    weight = torch.tensor([[-0.0, 1e-42, 3.0]])
    seen = masked_weight(weight, all_of(weight), **scalars(mu=math.inf), index=0)
    assert torch.equal(seen, weight)
    assert torch.equal(torch.signbit(seen), torch.signbit(weight))


# -- types and bad values --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = models.mlp().to(dtype)
    x = torch.randn(6, 8).to(dtype)
    sparse = sparsefx.transform(net, budget=0.25, example_inputs=(x,))
    for _ in range(2):
        sparse(x).float().square().sum().backward()
        with torch.no_grad():
            for p in sparse.parameters():
                assert p.grad.dtype == dtype
                assert p.grad.isfinite().all()
                p -= 0.01 * p.grad
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
        assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)
    dense = sparsefx.finalize(sparse)
    assert all(p.dtype == dtype for p in dense.parameters())


def test_a_move_of_type_keeps_the_masks_precise() -> None:
    net = models.mlp()
    sparse = sparsefx.transform(net, budget=0.25, example_inputs=(torch.ones(2, 8),))
    sparse.double()
    assert state_of(sparse).mu.dtype == DOUBLE
    assert state_of(sparse).mu.requires_grad
    sparse.half()
    assert state_of(sparse).threshold.dtype == DOUBLE
    out = sparse(torch.ones(2, 8, dtype=torch.float16))
    out.sum().backward()
    assert sparse[0]._parameters["weight"].grad.dtype == torch.float16


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_weights_are_named_and_the_masks_stay(bad: float) -> None:
    sparse = sparsefx.transform(
        models.mlp(), budget=0.25, example_inputs=(torch.ones(2, 8),), total_steps=10
    )
    before = {k: v.clone() for k, v in state_of(sparse).held().items()}
    with torch.no_grad():
        sparse[2]._parameters["weight"][0, 0] = bad
    with pytest.raises(sparsefx.MaskError, match=r"2.*NaN or [Ii]nf"):
        sparsefx.step(sparse)
    for name, value in state_of(sparse).held().items():
        assert value.equal(before[name]) or value.isnan().any(), name
