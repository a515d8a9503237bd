"""A module that is a function of two layers; what a call of it gives."""

import copy

import torch
from torch import nn

import sparsefx
from sparsefx.tracing.preserve import tensors_of

X = torch.linspace(-1, 1, 24).reshape(4, 6)


class Run(nn.Module):
    """Two layers and a forward that is a function of them and the input."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.__dict__["run"] = run

    def forward(self, x):
        return self.__dict__["run"](self, x)


def sparse_of(model, inputs, **options):
    return sparsefx.transform(model, example_inputs=inputs, budget=1.0, **options)


def outcome(model, inputs, training):
    """Outputs and gradients of one call with fixed random numbers."""
    model.train(training)
    torch.manual_seed(1)
    given = copy.deepcopy(inputs)
    with torch.set_grad_enabled(training):
        out = model(**given) if isinstance(given, dict) else model(*given)
    found = tensors_of(out)
    if training:
        sum(o.float().sum() for o in found if o.requires_grad).backward()
        found += [p.grad for p in model.parameters() if p.grad is not None]
        found = [f.to_dense() if f.is_sparse else f for f in found]
        model.zero_grad(set_to_none=True)
    return [f.detach().clone() for f in found]
