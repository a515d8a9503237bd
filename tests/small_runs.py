"""A small model made sparse, and trained for some steps."""

import torch

import sparsefx
from tests import models

X = torch.linspace(-1, 1, 4 * 8).reshape(4, 8).sin()


def sparse_of(net=None, inputs=(X,), **options):
    net = models.mlp() if net is None else net
    return sparsefx.transform(net, example_inputs=inputs, **options)
