"""Laws of whole transforms, on small models drawn at random."""

import copy
import os
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

import sparsefx
from tests import models

EXAMPLES = int(os.environ.get("SPARSEFX_EXAMPLES", 4))  # hundreds for a long look
# a transform takes a quarter of a second: to shrink a failure would take minutes
LAW = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
SEEDS = st.integers(0, 2**20)
BUDGETS = st.floats(0.05, 1.0)
POLICIES = st.sampled_from(["cost_budget", "uniform", "erk", "spartan"])
LAYERS = st.lists(
    st.tuples(st.sampled_from(["linear", "conv"]), st.integers(1, 5)),
    min_size=1,
    max_size=3,
)


class Drawn(nn.Module):
    """Convolutions over a sequence of 6, then linear maps of its features."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList()
        width = 3
        for kind, size in layers:
            make = nn.Linear if kind == "linear" else self.conv
            self.layers.append(make(width, size))
            width = size

    @staticmethod
    def conv(width, size):
        return nn.Conv1d(width, size, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (batch, positions, features)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = torch.tanh(layer(x))
            else:
                x = torch.tanh(layer(x.transpose(1, 2)).transpose(1, 2))
        return x


def drawn(layers, seed, ties=0.0):
    torch.manual_seed(seed)
    net = Drawn(layers)
    if ties:  # few different magnitudes, and zeros
        with torch.no_grad():
            for p in net.parameters():
                p.copy_((p * 4).round() / 4)
    return net, torch.randn(2, 6, 3)


def transformed(net, x, **options):
    return sparsefx.transform(net, example_inputs=(x,), **options)


@LAW
@given(LAYERS, SEEDS, BUDGETS, POLICIES)
def test_the_masked_model_is_the_dense_model_with_masked_weights(
    layers: Any, seed: int, budget: float, policy: str
) -> None:
    net, x = drawn(layers, seed)
    sparse = transformed(net, x, budget=budget, policy=policy)
    state = sparse.get_submodule("_sparsefx.weights")
    weights = dict(net.named_parameters())
    seen = dict(weights)
    for index, name in enumerate(sparsefx.masks(sparse)):
        w = weights[name].detach()
        z = (w.abs() - state.center[index]) * state.slope[index] + state.mu[index]
        soft = torch.sigmoid(z.detach())
        seen[name] = w * soft * sparsefx.masks(sparse)[name]
    wanted = functional_call(net, seen, (x,))
    torch.testing.assert_close(sparse(x), wanted)
    assert sparse.__dict__["_sparsefx_program"].run(sparse, (x,), {})[0]
    torch.testing.assert_close(sparse(x=x), wanted)  # the Python, not the graph
    torch.testing.assert_close(sparse(x[:1]), wanted[:1])
    dense = sparsefx.finalize(sparse)
    assert torch.equal(dense(x), sparse(x))


@LAW
@given(LAYERS, SEEDS, BUDGETS, POLICIES, st.booleans(), st.floats(0.5, 200.0))
def test_the_budget_is_met(
    layers: Any, seed: int, budget: float, policy: str, ties: bool, beta: float
) -> None:
    net, x = drawn(layers, seed, ties)
    limits = {"macs": budget}
    sparse = transformed(net, x, budget=limits, policy=policy, beta=beta)
    sites = sparsefx.sites(sparse)
    prices = [site.cost("macs") for site in sites]
    counts = [int(mask.sum()) for mask in sparsefx.masks(sparse).values()]
    limit = budget * sum(p * s.numel for p, s in zip(prices, sites, strict=True))
    hard = sum(p * n for p, n in zip(prices, counts, strict=True))
    assert hard <= limit * (1 + 1e-12)
    assert hard > limit - max(prices) * (1 + 1e-9)
    info = sparsefx.step(sparse)
    assert info.budget == pytest.approx(limit)
    assert abs(info.soft_cost - info.budget) <= 1e-6 * info.budget
    assert info.hard_cost <= info.budget
    assert sparsefx.report(sparse).to_dict()["budgets"]["macs"]["met"]


@LAW
@given(LAYERS, SEEDS, st.tuples(BUDGETS, BUDGETS), st.booleans())
def test_more_budget_keeps_what_less_kept(
    layers: Any, seed: int, budgets: Any, ties: bool
) -> None:
    net, x = drawn(layers, seed, ties)
    small, large = (
        sparsefx.masks(transformed(net, x, budget=b)) for b in sorted(budgets)
    )
    for name, mask in small.items():
        assert not (mask & ~large[name]).any()


@LAW
@given(SEEDS, BUDGETS, POLICIES)
def test_permuted_units_have_permuted_masks(
    seed: int, budget: float, policy: str
) -> None:
    torch.manual_seed(seed)
    net = models.mlp(5, 7, 3)
    x = torch.randn(2, 5)
    order = torch.randperm(7)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.copy_(net[0].weight[order])
        twin[0].bias.copy_(net[0].bias[order])
        twin[2].weight.copy_(net[2].weight[:, order])
    one = transformed(net, x, budget=budget, policy=policy)
    other = transformed(twin, x, budget=budget, policy=policy)
    masks, permuted = sparsefx.masks(one), sparsefx.masks(other)
    assert torch.equal(masks["0.weight"][order], permuted["0.weight"])
    assert torch.equal(masks["2.weight"][:, order], permuted["2.weight"])
    torch.testing.assert_close(one(x), other(x))


@LAW
@given(LAYERS, SEEDS)
def test_density_one_is_the_identity(layers: Any, seed: int) -> None:
    net, x = drawn(layers, seed)
    sparse = transformed(net, x, budget=1.0)
    assert torch.equal(sparse(x), net(x))
    with torch.no_grad():
        assert torch.equal(sparse(x), net(x))


@LAW
@given(SEEDS, st.integers(1, 6))
def test_saving_and_loading_is_no_interruption(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stop: int
) -> None:
    path = tmp_path_factory.mktemp("state") / "state.safetensors"

    def fresh():
        net, x = drawn([("linear", 4), ("conv", 3)], seed)
        return transformed(net, x, budget=0.3, total_steps=6), x

    def train(sparse, x, steps):
        for _ in range(steps):
            sparse(x).square().sum().backward()
            with torch.no_grad():
                for p in sparse.parameters():
                    p -= 0.05 * p.grad
                    p.grad = None
            sparsefx.step(sparse)

    whole, x = fresh()
    train(whole, x, 8)
    part, x = fresh()
    train(part, x, stop)
    sparsefx.save(part, path)
    resumed = sparsefx.load(fresh()[0], path)
    train(resumed, x, 8 - stop)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
