"""Small models whose weights live and die in groups."""

import itertools

import numpy as np
import torch
from torch import nn

import sparsefx
from sparsefx.settings.granularity import Granularity
from tests.made_once import made_once

ALL = ("block:2x4", "block:3x5:pad", "2:4", "1:4", "channel")
X = torch.linspace(-2, 2, 6 * 16).reshape(6, 16).sin()


def net(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 12, bias=bias), nn.Tanh(), nn.Linear(12, 8, bias=bias)
    )


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.Flatten()
    )


@made_once
def sparse_of(granularity, model=None, inputs=(X,), **options):
    given_ = {"budget": 0.7, "beta": 3.0, **options}
    return sparsefx.transform(
        model or net(), example_inputs=inputs, granularity=granularity, **given_
    )


def labels(granularity, shape, transposed=False):
    """Group number of every weight, by plain loops over the definition."""
    kind, sizes = Granularity.parse(granularity).kind, Granularity.parse(granularity)
    found = np.zeros(shape, dtype=object)
    conv = len(shape) > 2
    for index in itertools.product(*map(range, shape)):
        rest = list(index)
        out = rest.pop(1 if transposed else 0)
        sides = [n for i, n in enumerate(shape) if i != (1 if transposed else 0)]
        column = int(np.ravel_multi_index(rest, sides))
        if kind == "channel":
            found[index] = (out,)
        elif kind == "kernel":
            found[index] = index[:2]
        elif kind == "block" and sizes.taps and conv:
            blocks = out // sizes.sizes[0], rest[0] // sizes.sizes[1]
            found[index] = (*blocks, *rest[1:])
        elif kind == "block":
            found[index] = (out // sizes.sizes[0], column // sizes.sizes[1])
        else:
            at = rest[0] if conv else column
            found[index] = (out, *(rest[1:] if conv else ()), at // sizes.sizes[1])
    return found


def members(marks):
    found = {}
    for index in np.ndindex(marks.shape):
        found.setdefault(marks[index], []).append(index)
    return found
