"""Zeros that are there stay when training goes on."""

import copy

import pytest
import torch
import torch.nn.functional as F

import sparsefx
from tests.training.preset_starts import X, Y, base


@pytest.mark.parametrize("adam", [False, True])
def test_zeros_that_are_there_stay(adam: bool) -> None:
    sparse = copy.deepcopy(base("cost_budget", 1))
    dense = sparsefx.finalize(sparse)
    zeros = {n: p == 0 for n, p in dense.named_parameters() if p.ndim > 1}
    kept = sum(int((~z).sum()) for z in zeros.values())
    again = sparsefx.transform(dense, "fixed", example_inputs=(X,), masks="nonzero")
    params = sparsefx.report(again).budgets["params"]
    assert (params.kept, params.met) == (kept, True)
    made = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = made(again.parameters(), 0.05, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(again(X), Y).backward()
        optimizer.step()
        sparsefx.step(again, optimizer)
    with torch.no_grad():  # a merged adapter
        for weight in again.parameters():
            weight.add_(0.01)
    for name, weight in sparsefx.finalize(again).named_parameters():
        if name in zeros:
            assert not weight[zeros[name]].any()
            assert weight[~zeros[name]].all()
