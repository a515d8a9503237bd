"""A small sparse net, its loss, and the gradients it should have."""

import pytest
import torch
import torch.nn.functional as F

import sparsefx
from tests import models

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
Y = torch.linspace(-1, 1, 6 * 4).reshape(6, 4).cos()


def sparse_of(net=None, inputs=(X,), **options):
    torch.manual_seed(0)
    settings = {"budget": 0.3, "beta": 4.0, **options}
    return sparsefx.transform(net or models.mlp(), example_inputs=inputs, **settings)


def loss_of(model, x=X, y=Y):
    return F.mse_loss(model(x), y)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def assert_close(found, wanted, rtol=1e-5):
    for a, b in zip(found, wanted, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * scale)


# torch's own tracing of an autograd.Function makes an instance of it
DYNAMO = pytest.mark.filterwarnings("ignore:.*should not be instantiated")


class Counter:
    """A backend that counts how often something is compiled."""

    def __init__(self):
        self.compiled = 0

    def __call__(self, graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        self.compiled += 1
        return aot_eager(graph, inputs)
