"""Weights may grow by the gradients of all steps since they were dropped."""

import copy

import pytest
import torch
import torch.nn.functional as F

import sparsefx
from tests.learner_runs import adam, sparse_of, state_of, step

MOMENTUM = 0.8


def data(number):
    drawn = torch.Generator().manual_seed(number)
    return torch.randn(6, 8, generator=drawn), torch.randn(6, 4, generator=drawn)


def learn(model, number):
    x, y = data(number)
    F.mse_loss(model(x), y).backward()


def dense_gradients(sparse, number):
    """Of the loss, in all entries of the masked weights."""
    plain = sparsefx.finalize(copy.deepcopy(sparse))
    learn(plain, number)
    return {n: dict(plain.named_parameters())[n].grad for n in sparsefx.masks(sparse)}


def test_the_largest_sums_of_gradients_grow():
    sparse = sparse_of("rigl", growth_momentum=MOMENTUM)
    optimizer = adam(sparse)
    sums = {n: torch.zeros(m.shape) for n, m in sparsefx.masks(sparse).items()}
    other = 0
    for number in range(1, 13):
        kept, now = sparsefx.masks(sparse), dense_gradients(sparse, number)
        learn(sparse, number)
        for key, parameter in sparse.named_parameters():
            if key in kept:
                assert not parameter.grad[~kept[key]].any()  # nothing else changes
        step(sparse, optimizer)
        for key, mask in sparsefx.masks(sparse).items():
            carried = torch.where(kept[key], 0.0, MOMENTUM * sums[key])
            sums[key] = carried + now[key]
            grown, free = mask & ~kept[key], ~kept[key]
            count = int(grown.sum())
            assert (number % 4 == 0) >= (count > 0)
            assert torch.equal(grown, largest(sums[key], free, count))
            other += int((grown & ~largest(now[key], free, count)).sum())
    assert other > 0  # the last gradient alone would have grown others


def largest(values, among, count):
    found = torch.zeros_like(among)
    order = torch.where(among, values.abs(), -1.0).flatten().argsort(descending=True)
    found.view(-1)[order[:count]] = True
    return found


def test_sums_are_state_until_masks_freeze():
    sparse = sparse_of("rigl", growth_momentum=MOMENTUM)
    optimizer = adam(sparse)
    for number in range(2):
        learn(sparse, number)
        step(sparse, optimizer)
    twin = sparse_of("rigl", growth_momentum=MOMENTUM)
    twin.load_state_dict(sparse.state_dict())
    other = adam(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(2, 13):
        for model, its in ((sparse, optimizer), (twin, other)):
            learn(model, number)
            report = step(model, its)
    assert report.frozen
    assert not any("score_" in key for key in sparse.state_dict())
    states = state_of(sparse), state_of(twin)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_dense_gradients_at_every_step_are_counted():
    costs = []
    for momentum in (0.0, MOMENTUM):
        sparse = sparse_of("rigl", growth_momentum=momentum)
        optimizer = adam(sparse)
        for number in range(3):
            learn(sparse, number)
            costs.append(step(sparse, optimizer).training_cost)
    assert costs[:3] == pytest.approx([costs[0]] * 3)
    assert costs[3:] == pytest.approx([(2 * costs[0] + 1) / 3] * 3)
