"""Masked groups: golden masks, exact gradients, the operators' contracts."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.kernels.bits import pack
from sparsefx.masking.cut_groups import grouping
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer
from tests.grouped_models import ALL, X, labels, members, net, sparse_of
from tests.networks import hard_masks, precisely, soft_masks, softly
from tests.reference import bisect, sigmoid
from tests.scalars import site_scalars


@pytest.mark.filterwarnings("ignore:this gradient lacks the budget")
@pytest.mark.parametrize("granularity", ALL)
def test_plain_operations_give_the_same(granularity: str) -> None:
    """What vmap and export use equals the operators."""
    sparse = sparse_of(granularity)
    state = sparse.get_submodule("_sparsefx.weights")
    parameters = {n: p.detach() for n, p in sparse.named_parameters()}

    def loss(values):
        return torch.func.functional_call(sparse, values, (X,)).square().mean()

    state.spread.zero_()  # no coupling: that is added outside autograd
    sparse(X).square().mean().backward()
    found = torch.func.grad(loss)(parameters)
    for name, p in sparse.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("granularity", ["block:3x5:pad", "2:4"])
def test_the_operators_keep_their_contracts(granularity: str) -> None:
    from sparsefx.masking.masked_groups import _forward

    weight = torch.randn(6, 8, requires_grad=True)
    rule, bits = site_scalars(0.1, 2.0, 0.5), pack(torch.rand(6, 8) < 0.5)
    rule.mu.requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        _forward, (weight, bits, rule, 0, granularity, "linear"), test_utils=tests
    )


def test_blocks_have_the_golden_masks() -> None:
    weight = torch.tensor(
        [
            [0.1, -0.2, 0.3, 0.4],
            [0.5, -0.6, 0.7, 0.8],
            [0.9, 0.05, -0.15, 0.25],
            [0.35, -0.45, 0.55, 0.65],
        ],
        dtype=torch.float64,
    )
    values = grouping("block:2x2", (4, 4), "linear").values(weight)
    layer = Layer(values, price=4.0, worth=4.0, lower=0, upper=4)
    with precisely(1e-12):
        masks = softly([layer], 8.0, 5.0)
    assert masks.mu == pytest.approx(-2.169546396050746, abs=1e-9)
    (soft,) = soft_masks([layer], masks)
    wanted = [0.39662529867, 0.641171773917, 0.504488280428, 0.457714646984]
    np.testing.assert_allclose(soft, wanted, atol=1e-9)
    (kept,) = hard_masks([layer], solve_hard([layer], 8.0))
    assert kept.tolist() == [False, True, True, False]


def test_beta_grows_with_the_blocks() -> None:
    """Masks of means are as sharp as masks of weights."""
    wide = nn.Linear(256, 256, bias=False)
    spread = {}
    for granularity in ("unstructured", "block:4x4", "block:16x16"):
        sparse = sparse_of(
            granularity, wide, (torch.randn(2, 256),), budget=0.3, beta=10.0
        )
        spread[granularity] = sparsefx.step(sparse).kept_mask_mean
    assert min(spread.values()) > 0.75 * max(spread.values())


def dense_masks(sparse, latent, shift):
    """Soft masks by plain autograd; ``shift`` moves the multipliers."""
    state = sparse.get_submodule("_sparsefx.weights")
    masks, costs = {}, torch.zeros(len(shift), dtype=torch.float64)
    for i, site in enumerate(sparsefx.sites(sparse)):
        weight, slope = latent[site.name], state.slope[i]
        base = state.mu[i].detach() + shift[int(state.group[i])]
        if site.granularity.kind == "n_of_m":
            groups = site.groups
            runs = weight.abs().reshape(-1, groups.of)
            c = torch.zeros(len(runs), 1, dtype=torch.float64)
            for row in range(len(runs)):
                z = (slope * runs[row]).detach().numpy()
                c[row] = bisect(lambda mu, z=z: sigmoid(z + mu).sum(), groups.kept,
                                -z.max() - 9, -z.min() + 9)  # fmt: skip
            n = torch.sigmoid(slope * runs + c)
            s = (n * (1 - n)).detach()  # implicit function theorem for each c
            moved = (slope * s * (runs - runs.detach())).sum(1, keepdim=True)
            c = c - moved / s.sum(1, keepdim=True)
            n = torch.sigmoid(slope * runs + c).reshape(weight.shape)
            value = weight.abs()[~groups.top(weight)].mean()
            z = torch.sigmoid((value - state.center[i]) * slope + base)
            m = 1 - (1 - n) * (1 - z)
        else:
            m = torch.zeros_like(weight)
            for of in members(labels(str(site.granularity), site.shape)).values():
                pick = torch.zeros_like(weight)
                for index in of:
                    pick[index] = 1
                value = (weight.abs() * pick).sum() / site.unit_size
                z = torch.sigmoid((value - state.center[i]) * slope + base)
                m = m + pick * z
                full = site.unit_size / len(of)
                costs = costs.index_add(
                    0, state.group[i : i + 1], (full - 1) * site.cost("macs")
                    * z[None] * len(of),
                )  # fmt: skip
        masks[site.name] = m
        costs = costs.index_add(
            0, state.group[i : i + 1], site.cost("macs") * m.sum()[None]
        )
    return masks, costs


@pytest.mark.parametrize("granularity", ALL)
def test_the_gradient_is_exact(granularity: str) -> None:
    model = net().double()
    sparse = sparse_of(granularity, model, (X.double(),))
    target = torch.linspace(-1, 1, 48).reshape(6, 8).double()
    F.mse_loss(sparse(X.double()), target).backward()
    found = {n: p.grad.clone() for n, p in sparse.named_parameters()}
    latent = {
        n: p.detach().clone().requires_grad_() for n, p in sparse.named_parameters()
    }
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    soft, costs = dense_masks(sparse, latent, shift)
    seen = dict(latent)
    for name, hard in sparsefx.masks(sparse).items():
        through = soft[name] * latent[name]
        seen[name] = through + (hard * through - through).detach()
    loss = F.mse_loss(
        torch.func.functional_call(net().double(), seen, X.double()), target
    )
    names = list(latent)
    inputs = [latent[n] for n in names]
    direct = torch.autograd.grad(loss, [*inputs, shift], retain_graph=True)
    for i, name in enumerate(names):
        total = direct[i]
        for group in range(2):
            moved = torch.autograd.grad(
                costs[group], [inputs[i], shift], retain_graph=True, allow_unused=True
            )
            if moved[0] is not None and moved[1][group] > 1e-12:
                total = total - moved[0] * direct[-1][group] / moved[1][group]
        torch.testing.assert_close(found[name], total, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("granularity", ALL)
def test_compiled_equals_eager(granularity: str) -> None:
    sparse = sparse_of(granularity)
    twin = copy.deepcopy(sparse)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for run in (sparse, compiled):
        run(X).square().mean().backward()
    for a, b in zip(sparse.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
