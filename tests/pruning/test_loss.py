"""A loss of one's own decides what layers are worth, is lessened and is reported."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.errors import MaskError, PolicyError
from sparsefx.pruning.damage import BY_KIND, by_loss
from sparsefx.pruning.importance import importances
from tests.pruning import nets


def softmax(out, dense):
    out, dense = out.log_softmax(-1), dense.log_softmax(-1)
    return F.kl_div(out, dense, reduction="sum", log_target=True)


def cosine(out, dense):
    return (1 - F.cosine_similarity(out, dense, dim=-1)).sum()


def first(out, dense):
    return (out - dense)[..., 0].square().sum() / 2


LOSSES = {"softmax": softmax, "cosine": cosine, "first": first}


@pytest.mark.parametrize("name", LOSSES)
def test_probes_are_the_root_of_the_second_derivatives_times_noise(name) -> None:
    loss, point = LOSSES[name], torch.tensor([[0.3, -1.0, 0.7], [1.0, 0.1, -0.5]])
    point = point.double()
    wanted = torch.autograd.functional.hessian(lambda x: loss(x, point), point)
    values, vectors = torch.linalg.eigh(wanted.reshape(6, 6))
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.mT
    at = point.requires_grad_()
    for seed in range(3):
        z = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        value = by_loss(loss).probe(at, None, torch.Generator().manual_seed(seed))
        found = torch.autograd.grad(value, at)[0].flatten()
        assert torch.allclose(found, root @ z.double().flatten(), atol=1e-6)


def test_squares_are_what_outputs_count_by_anyway() -> None:
    net, calls = nets.mlp(), [((x,), {}) for x in nets.batches()]
    named = dict(net.named_parameters())
    weights = {name: named[name] for name in ("0.weight", "2.weight")}
    valid = [None] * len(calls)
    one = importances(net, calls, valid, weights, 0, BY_KIND)
    squares = by_loss(lambda out, dense: (out - dense).square().sum() / 2)
    two = importances(net, calls, valid, weights, 0, squares)
    for name in weights:
        assert torch.allclose(one[name], two[name], rtol=1e-4)


def test_what_the_loss_looks_at_is_kept() -> None:
    net, data = nets.mlp(), nets.batches(10)
    pruned = sparsefx.prune(net, data, budget=0.4, loss=first, distill_steps=30)
    usual = sparsefx.prune(net, data, budget=0.4)
    kept, even = (x.masks["2.weight"].float().mean(1) for x in (pruned, usual))
    assert kept[0] > even[0]
    losses = [
        sum(float(first(x.model(b), net(b)).detach()) for b in data)
        for x in (pruned, usual)
    ]
    assert losses[0] < 0.5 * losses[1]


@torch.no_grad()
def test_the_report_is_of_the_loss() -> None:
    net, data = nets.mlp(), nets.batches()
    pruned = sparsefx.prune(net, data, budget=0.5, loss=cosine, held_out=0)
    mean = sum(float(cosine(pruned.model(x), net(x))) for x in data) / len(data)
    assert pruned.report.change == pytest.approx(mean)
    assert f"the loss is {mean:.4g}" in str(pruned.report)


def test_outputs_of_any_structure() -> None:
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nets.mlp()

        def forward(self, x):
            out = self.net(x)
            return {"a": out[:, :3], "b": (out.argmax(-1), out[:, 3:])}

    def loss(out, dense):
        return (out["b"][1] - dense["b"][1]).square().mean()

    pruned = sparsefx.prune(Pair(), nets.batches(), budget=0.4, loss=loss)
    kept = pruned.masks["net.2.weight"].float().mean(1)
    assert kept[:3].mean() < kept[3:].mean()


def test_bad_losses() -> None:
    net, data = nets.mlp(), nets.batches()
    for loss, error, text in (
        ("mse", PolicyError, "loss is 'mse'"),
        (lambda out, dense: (out - dense).square(), MaskError, r"shape \(20, 8\)"),
        (lambda out, dense: 1.0, MaskError, r"loss returns 1\.0"),
        (lambda out, dense: (out - dense).abs().sum(), MaskError, "second derivatives"),
        (lambda out, dense: out.detach().sum() * 0, MaskError, "second derivatives"),
    ):
        with pytest.raises(error, match=text):
            sparsefx.prune(net, data, loss=loss)
