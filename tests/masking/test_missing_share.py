"""A gradient that lacks the budget's share says so; those that have it do not."""

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.training.life import life_of
from tests.made_once import made_once

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SHAPES = ["unstructured", "block:2x2"]


@made_once
def made(granularity: str = "unstructured", policy: str = "cost_budget") -> nn.Module:
    torch.manual_seed(0)
    net = nn.Linear(6, 4, bias=False)
    options = {"granularity": granularity, "optimizer_state": "keep"}
    if policy == "cost_budget":
        options.pop("optimizer_state")
    return sparsefx.transform(net, policy, budget=0.5, example_inputs=(X,), **options)


@pytest.mark.parametrize("granularity", SHAPES)
def test_grad_without_backward_says_what_is_missing(granularity: str) -> None:
    sparse = made(granularity)
    (weight,) = sparse.parameters()
    with pytest.warns(UserWarning, match="lacks the budget's share"):
        torch.autograd.grad(sparse(X).square().sum(), weight)
    with pytest.warns(UserWarning, match="lacks the budget's share"):
        sparse(X).square().sum().backward(inputs=[weight])
    sparse.zero_grad()
    sparse(X).square().sum().backward()  # warnings are errors


def test_masks_that_stand_have_no_share() -> None:
    sparse = made(policy="magnitude")
    (weight,) = sparse.parameters()
    loss = sparse(X).square().sum()
    (first,) = torch.autograd.grad(loss, weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    mask = sparsefx.masks(sparse)["weight"]
    dense = (weight.detach() * mask).requires_grad_()
    (wanted,) = torch.autograd.grad(
        (X @ dense.T).square().sum(), dense, None, True, True
    )
    torch.testing.assert_close(first, wanted * mask)
    (again,) = torch.autograd.grad((wanted * mask).square().sum(), dense)
    torch.testing.assert_close(second, again * mask)


@pytest.mark.parametrize("policy", ["cost_budget", "magnitude"])
def test_passes_that_have_ended_are_forgotten(policy: str) -> None:
    sparse = made(policy=policy)
    state = life_of(sparse, "report").parts[0].state
    assert state is not None
    for _ in range(3):
        sparse(X).square().sum().backward()
    held = [v for v in vars(state.mu).values() if isinstance(v, dict)]
    assert held
    assert not any(held)
