"""Short runs of every learner, shared by the tests of their laws."""

import torch
import torch.nn.functional as F
from torch.optim import AdamW

import sparsefx
from tests import models
from tests.made_once import made_once

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
Y = torch.linspace(-1, 1, 6 * 4).reshape(6, 4).cos()
TOTAL = 16
KEPT = (
    "magnitude",
    "gmp",
    "topkast",
    "fixed",
    "set",
    "rigl",
    "granet",
    "granet_sparse",
)
GROWING = ("rigl", "granet", "granet_sparse")
EVERY = dict.fromkeys(KEPT, 4) | {"magnitude": 1, "topkast": 1, "spartan": 1}


@made_once
def sparse_of(name, net=None, **options):
    torch.manual_seed(0)
    settings = {"budget": 0.3, "total_steps": TOTAL, "update_every": EVERY[name]}
    return sparsefx.transform(
        net or models.mlp(), name, example_inputs=(X,), **settings | options
    )


def adam(sparse):
    return AdamW(sparse.parameters(), lr=0.05)


def backward(model, x=X, y=Y):
    F.mse_loss(model(x), y).backward()


def step(sparse, optimizer):
    optimizer.step()
    optimizer.zero_grad()
    return sparsefx.step(sparse, optimizer)


def train(sparse, optimizer, steps):
    reports = []
    for _ in range(steps):
        backward(sparse)
        reports.append(step(sparse, optimizer))
    return reports


def state_of(sparse):
    return {k: v for k, v in sparse.state_dict().items() if isinstance(v, torch.Tensor)}
