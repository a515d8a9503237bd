"""Pruning plasticity: what is pruned, what grows, what is left alone."""

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import PolicyError

X = torch.linspace(-1, 1, 32).reshape(8, 4).sin()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))


def loss(model):
    return (model(X) - X).square().mean()


def backward(model):
    loss(model).backward()


def study(model, seen, **more):
    def train(sparse):
        optimizer = torch.optim.SGD(sparse.parameters(), lr=0.5, momentum=0.9)
        seen.append({k: m.clone() for k, m in sparsefx.masks(sparse).items()})
        for _ in range(30):
            optimizer.zero_grad()
            backward(sparse)
            for key, mask in seen[-1].items():
                grad = dict(sparse.named_parameters())[key].grad
                assert not grad[~mask].any()
            optimizer.step()
        assert all(
            torch.equal(mask, seen[-1][k]) for k, mask in sparsefx.masks(sparse).items()
        )

    return sparsefx.pruning_plasticity(
        model, train=train, evaluate=lambda m: -float(loss(m).detach()),
        example_inputs=(X,), **more
    )  # fmt: skip


def test_one_pruning() -> None:
    model, seen = net(), []
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = study(model, seen, rate=0.75)
    assert found.before == -float(loss(model).detach())
    assert found.plasticity == found.after - found.before
    assert found.after > found.pruned
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    kept = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).abs()
    mask = torch.cat([m.flatten() for m in seen[0].values()])
    assert int(mask.sum()) == 16
    assert kept[mask].min() >= kept[~mask].max()


def test_regrowth_moves_half_of_each_layer_to_large_gradients() -> None:
    plain, grown = [], []
    study(net(), plain, rate=0.75)
    study(net(), grown, rate=0.75, regrow=0.5, backward=backward)
    for key, mask in plain[0].items():
        new = grown[0][key]
        assert int(new.sum()) == int(mask.sum())
        assert int((mask & ~new).sum()) == -(-int(mask.sum()) // 2)


def test_every_layer_is_pruned_alike() -> None:
    model, seen = net(), []
    study(model, seen, rate=0.75, allocation="uniform")
    for key, mask in seen[0].items():
        weight = model.get_parameter(key).abs()
        assert int(mask.sum()) == 8
        assert weight[mask].min() >= weight[~mask].max()


def test_growth_at_random_needs_no_gradients() -> None:
    plain, grown, other = [], [], []
    study(net(), plain, rate=0.75)
    study(net(), grown, rate=0.75, regrow=0.5, learner="set")
    study(net(), other, rate=0.75, regrow=0.5, learner="set", seed=1)
    for key, mask in plain[0].items():
        assert int((mask & ~grown[0][key]).sum()) == -(-int(mask.sum()) // 2)
        assert int(grown[0][key].sum()) == int(other[0][key].sum()) == int(mask.sum())
    assert any(not torch.equal(grown[0][k], other[0][k]) for k in plain[0])


def test_refusals() -> None:
    for rate in (0.0, 1.0):
        with pytest.raises(PolicyError, match=rf"rate is {rate}; give a share"):
            study(net(), [], rate=rate)
    with pytest.raises(PolicyError, match="growth needs gradients; give backward"):
        study(net(), [], rate=0.5, regrow=0.5)
