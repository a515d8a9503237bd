"""The gradient is exact when ``backward`` returns, however training is done."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import sparsefx
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request
from sparsefx.solver.solve import solve
from tests import models
from tests.gradient_models import X, Y, assert_close, gradients, loss_of, sparse_of


def reference(model, loss):
    """Gradients by autograd through dense masks, and the implicit function theorem."""
    state = model.get_submodule("_sparsefx.weights")
    masks = sparsefx.masks(model)
    named = dict(model.named_parameters())
    latent = {k: v.detach().clone().double() for k, v in named.items()}
    for value in latent.values():
        value.requires_grad_()
    some = state.candidates  # others are zeros that stay
    shift = torch.zeros(len(masks), dtype=torch.float64, requires_grad=True)
    seen, cost = dict(latent), torch.zeros(len(masks), dtype=torch.float64)
    for i, (name, hard) in enumerate(masks.items()):
        may = some.mask(i) if some else torch.ones_like(hard)
        w = torch.where(may, latent[name], 0.0)
        z = (w.abs() - state.center[i]) * state.slope[i]
        group = int(state.group[i])
        m = torch.sigmoid(z + state.mu[i].detach() + shift[group])
        through = m * w
        seen[name] = through + (hard * through - through).detach()
        cost = cost.index_add(
            0, state.group[i : i + 1], state.price[i] * m[may].sum()[None]
        )
    value = loss(seen)
    wanted = list(latent.values())
    direct = torch.autograd.grad(value, [*wanted, shift], retain_graph=True)
    result = []
    for index, _ in enumerate(wanted):
        total = direct[index]
        for group in set(state.group.tolist()):
            moved = torch.autograd.grad(
                cost[group],
                [wanted[index], shift],
                retain_graph=True,
                allow_unused=True,
            )
            if moved[0] is not None and float(state.spread[group]) > 0:
                total = total - moved[0] * direct[-1][group] / moved[1][group]
        result.append(total)
    return result


def dense_loss(weights):
    x = torch.tanh(F.linear(X.double(), weights["0.weight"], weights["0.bias"]))
    return F.mse_loss(F.linear(x, weights["2.weight"], weights["2.bias"]), Y.double())


@pytest.mark.parametrize("policy", ["cost_budget", "uniform"])
def test_equals_the_dense_reference(policy: str) -> None:
    sparse = sparse_of(policy=policy)
    loss_of(sparse).backward()
    assert_close(gradients(sparse), reference(sparse, dense_loss))


@pytest.mark.parametrize("edited", [False, True])
def test_zeros_that_stay_have_no_share(edited: bool) -> None:
    net = models.mlp()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.masked_fill_(layer.weight < 0.05, 0.0)
    zero = net[0].weight == 0
    sparse = sparse_of(net, masks="nonzero")
    if edited:
        sparse.get_parameter("0.weight").data[zero] = 0.3
    loss_of(sparse).backward()
    assert_close(gradients(sparse), reference(sparse, dense_loss))
    assert not sparse.get_parameter("0.weight").grad[zero].any()


def test_accumulation() -> None:
    sparse = sparse_of()
    loss_of(sparse).backward()
    whole = gradients(sparse)
    sparse.zero_grad()
    for part in range(3):
        rows = slice(2 * part, 2 * part + 2)
        (loss_of(sparse, X[rows], Y[rows]) / 3).backward()
    assert_close(gradients(sparse), whole)


def test_two_losses_in_one_backward_and_a_graph_kept() -> None:
    sparse = sparse_of()
    loss_of(sparse).backward()
    whole = gradients(sparse)
    sparse.zero_grad()
    (loss_of(sparse, X[:3], Y[:3]) / 2 + loss_of(sparse, X[3:], Y[3:]) / 2).backward()
    assert_close(gradients(sparse), whole)
    sparse.zero_grad()
    loss = loss_of(sparse) / 2
    loss.backward(retain_graph=True)
    loss.backward()
    assert_close(gradients(sparse), whole)


def test_a_failed_backward_leaves_nothing_behind() -> None:
    sparse = sparse_of()
    loss_of(sparse).backward()
    whole = gradients(sparse)
    sparse.zero_grad()
    x = X.clone().requires_grad_()
    loss = loss_of(sparse, x)

    def fail(grad):
        raise RuntimeError("stop")

    x.register_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        loss.backward()
    sparse.zero_grad()
    loss_of(sparse).backward()
    assert_close(gradients(sparse), whole, rtol=0)


def test_clipping_sees_the_whole_gradient() -> None:
    sparse = sparse_of()
    loss_of(sparse).backward()
    wanted = torch.stack([g.norm() for g in reference(sparse, dense_loss)]).norm()
    norm = nn.utils.clip_grad_norm_(sparse.parameters(), 1e-3)
    assert float(norm) == pytest.approx(float(wanted), rel=1e-5)


def test_scaled_loss_under_autocast() -> None:
    sparse = sparse_of()
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(sparse).backward()
    plain = gradients(sparse)
    sparse.zero_grad()
    optimizer = SGD(sparse.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**10)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(sparse)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert_close(gradients(sparse), plain, rtol=1e-2)
    assert_close(gradients(sparse), reference(sparse, dense_loss), rtol=0.1)
    scaler.step(optimizer)
    scaler.update()
    assert sparsefx.step(sparse).step == 1


def test_a_copy_has_its_own_masks_and_gradients() -> None:
    sparse = sparse_of()
    loss_of(sparse).backward()
    whole = gradients(sparse)
    sparse.zero_grad()
    twin = copy.deepcopy(sparse)
    loss_of(twin).backward()
    assert all(p.grad is None for p in sparse.parameters())
    assert_close(gradients(twin), whole, rtol=0)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(-1).sub_(0.1)
    before = sparsefx.masks(sparse)
    sparsefx.step(twin)
    assert all(torch.equal(before[k], v) for k, v in sparsefx.masks(sparse).items())
    assert any(not torch.equal(before[k], v) for k, v in sparsefx.masks(twin).items())
    assert len(sparsefx.graphs(twin)) == 1
    torch.testing.assert_close(twin(X), twin.get_submodule("2")(twin[1](twin[0](X))))


def test_validation_in_between_changes_nothing() -> None:
    results = []
    for validate in (False, True):
        sparse = sparse_of(total_steps=6)
        optimizer = SGD(sparse.parameters(), lr=0.1)
        for _ in range(6):
            loss = loss_of(sparse)
            if validate:
                with torch.no_grad():
                    loss_of(sparse.eval(), X[:2], Y[:2])
                with torch.inference_mode():
                    sparse(X[:1])
                sparse.train()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            sparsefx.step(sparse)
        results.append([p.detach().clone() for p in sparse.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_weights_that_are_unused_or_frozen() -> None:
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.frozen = nn.Linear(8, 8), nn.Linear(8, 4)
            self.unused = nn.Linear(8, 8)
            self.frozen.weight.requires_grad_(False)

        def forward(self, x):
            return self.frozen(torch.tanh(self.used(x)))

    sparse = sparse_of(Partly(), cost="params", include=("*",))

    def loss(weights):
        x = F.linear(X.double(), weights["used.weight"], weights["used.bias"])
        x = F.linear(torch.tanh(x), weights["frozen.weight"], weights["frozen.bias"])
        return F.mse_loss(x, Y.double()) + 0 * weights["unused.bias"].sum()

    loss_of(sparse).backward()
    found = dict(zip(dict(sparse.named_parameters()), gradients(sparse), strict=True))
    assert found["frozen.weight"] is None
    assert found["unused.bias"] is None

    # the budget couples the unused weight to the others: its gradient is not zero
    def touched(weights):
        return loss(weights) + 0 * weights["unused.weight"].sum()

    wanted = reference(sparse, touched)
    wanted = dict(zip(found, wanted, strict=True))
    for name in ("used.weight", "used.bias", "unused.weight", "frozen.bias"):
        assert_close([found[name]], [wanted[name]])


def test_activation_checkpointing() -> None:
    x, y = X[:, :6], Y[:, :2]
    plain = models.Checkpointed()
    with pytest.warns(UserWarning, match="activation checkpointing"):
        sparse = sparse_of(plain, inputs=(x,))
    loss_of(sparse, x, y).backward()
    found = gradients(sparse)
    sparse.zero_grad()
    F.mse_loss(sparse.head(sparse.block(x)), y).backward()
    assert_close(found, gradients(sparse), rtol=1e-6)


def test_checkpointing_around_the_model() -> None:
    from torch.utils.checkpoint import checkpoint

    for reentrant in (False, True):
        sparse = sparse_of()
        loss_of(sparse).backward()
        whole = gradients(sparse)
        sparse.zero_grad()
        x = X.clone().requires_grad_()
        F.mse_loss(checkpoint(sparse, x, use_reentrant=reentrant), Y).backward()
        assert_close(gradients(sparse), whole, rtol=1e-6)


def test_the_solver_is_given_what_it_takes() -> None:
    """`solve` refuses nothing silently: a site without price stays dense."""
    weights = [torch.ones(2, 2), torch.arange(4.0).reshape(2, 2)]
    limits = Limits(((0.0, 1.0),), (2.0,), ("macs",))
    found = solve(
        Request(
            weights, limits, lambda prices, sums: [1.0, 1.0], [(0, 4)] * 2, 5.0, "ab"
        )
    )
    assert found.counts == (4, 2)
    assert found.sites[0].spread == 0
