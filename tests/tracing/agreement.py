"""Recordings that must equal the module they were made of."""

import copy

import torch

from sparsefx.tracing.capture import capture
from sparsefx.tracing.preserve import tensors_of

X = torch.linspace(-1, 1, 24).reshape(4, 6)
IMAGES = torch.linspace(-1, 1, 3 * 49).reshape(3, 1, 7, 7)


def program(model, inputs=(X,), path=""):
    found = capture(model, inputs)
    assert path in found.programs, str(found)
    return found.programs[path]


def agree(model, args, kwargs=None, *, training):
    """The graph runs, and equals the module's Python."""
    kwargs = kwargs or {}
    found = program(model, kwargs or args)
    model.train(training)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    wanted = model(*args, **kwargs)
    torch.manual_seed(1)
    ran, got = found.run(twin, args, kwargs)
    assert ran
    pairs = zip(tensors_of(got), tensors_of(wanted), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)
