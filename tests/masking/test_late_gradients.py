"""Gradients that wait for the end of a backward pass: exact then, local before."""

import copy

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.masking import masked_weight
from sparsefx.training.life import life_of
from tests.made_once import made_once

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


@made_once
def first() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    return sparsefx.transform(net, budget=0.5, beta=3.0, example_inputs=(X,))


def made() -> nn.Module:
    """A model that has stepped: copies wait only from then on."""
    sparse = first()
    sparsefx.step(sparse)
    return sparse


def gradients(sparse: nn.Module) -> list[Tensor]:
    found = [w.grad for w in sparse.parameters()]
    return [torch.zeros(()) if g is None else g.clone() for g in found]


def loss_of(sparse: nn.Module) -> Tensor:
    return sparse(X).square().sum()


def at_once(monkeypatch: pytest.MonkeyPatch, sparse: nn.Module) -> list[Tensor]:
    """The gradients where none waits."""
    with monkeypatch.context() as patch:
        patch.setattr(masked_weight, "waits", lambda *_: False)
        loss_of(sparse).backward()
    found = gradients(sparse)
    sparse.zero_grad()
    return found


def test_what_waits_is_the_raw_gradient_made_exact_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sparse, waited = made(), []
    wanted = at_once(monkeypatch, sparse)
    asked = masked_weight.waits

    def waits(*rest: object) -> bool:
        waited.append(asked(*rest))  # type: ignore[arg-type]
        return waited[-1]

    monkeypatch.setattr(masked_weight, "waits", waits)
    loss_of(sparse).backward()
    assert waited == [True, True]
    torch.testing.assert_close(gradients(sparse), wanted)
    loss_of(sparse).backward()  # onto gradients that are exact: at once
    assert waited[2:] == [False, False]
    torch.testing.assert_close(gradients(sparse), [2 * g for g in wanted])


def test_hooks_see_the_local_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = made()
    wanted = at_once(monkeypatch, sparse)
    weight = sparse.get_parameter("0.weight")
    seen: list[Tensor] = []
    handle = weight.register_hook(lambda g: seen.append(g.clone()))
    loss_of(sparse).backward()
    torch.testing.assert_close(gradients(sparse), wanted)
    life = life_of(sparse, "report")
    state = life.parts[0].state
    assert state is not None
    a, slope = weight.detach().abs(), state.slope[0]
    m = torch.sigmoid((a - state.center[0]) * slope + state.mu[0].detach())
    raw = _raw(sparse)
    local = raw * (m + a * slope * m * (1 - m))
    torch.testing.assert_close(seen[0], local.float())
    handle.remove()


def _raw(sparse: nn.Module) -> Tensor:
    """The gradient with respect to what the first layer computes with."""
    plain = copy.deepcopy(made())
    dense = sparsefx.finalize(plain)
    dense.requires_grad_()
    loss_of(dense).backward()
    found = dense.get_parameter("0.weight").grad
    assert found is not None
    return found


def test_a_weight_used_twice_and_a_pass_within_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.utils.checkpoint import checkpoint

    sparse = made()
    wanted = [3 * g for g in at_once(monkeypatch, sparse)]
    x = X.clone().requires_grad_()
    inner = checkpoint(sparse, x, use_reentrant=True).square().sum()
    (loss_of(sparse) + inner + loss_of(sparse)).backward()
    torch.testing.assert_close(gradients(sparse), wanted)


def test_a_pass_that_failed_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sparse = made()
    wanted = at_once(monkeypatch, sparse)

    def fail(grad: Tensor) -> None:
        raise ZeroDivisionError

    handle = sparse.get_parameter("0.bias").register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        loss_of(sparse).backward()
    handle.remove()
    sparse.zero_grad()
    loss_of(sparse).backward()
    torch.testing.assert_close(gradients(sparse), wanted)


def test_parameters_that_a_tool_exchanges_do_not_wait() -> None:
    """Some show others for the length of a pass, and take their gradients at once."""
    sparse = made()
    names = dict(sparse.named_parameters())
    others = {n: p.detach().clone().requires_grad_() for n, p in names.items()}
    taken: dict[str, Tensor] = {}
    torch.func.functional_call(sparse, others, (X,)).square().sum().backward()
    for name, other in others.items():
        assert other.grad is not None
        taken[name] = other.grad
    loss_of(sparse).backward()
    torch.testing.assert_close(list(taken.values()), gradients(sparse))
