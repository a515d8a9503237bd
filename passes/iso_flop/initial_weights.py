"""Initial weights that make a sparse layer's outputs vary as the dense layer's did.

An output that adds ``n`` kept entries of variance ``v`` over inputs of second moment
``q`` has the variance ``n v q``. What counts is therefore the *energy* of a weight,
the sum of the squares of its kept entries; the density only says by how many entries
it is carried.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, fx, nn


def energy_of(weight: Tensor) -> float:
    """Sum of squares of a dense weight.

    Example:
        >>> energy_of(torch.ones(2, 3))
        6.0
    """
    return float(weight.detach().double().square().sum())


def drawn(shape: tuple[int, ...], energy: float, count: int, like: Tensor) -> Tensor:
    """Normal entries of which any ``count`` carry the energy, on average.

    Args:
        shape: of the new weight.
        energy: sum of squares of ``count`` entries.
        count: number of entries that will be kept.
        like: gives type and device.

    Example:
        >>> weight = drawn((100, 100), 50.0, 5000, torch.ones(1))
        >>> round(float(weight.std()), 2)
        0.1
    """
    std = math.sqrt(energy / max(count, 1))
    return torch.randn(shape, dtype=like.dtype, device=like.device) * std


def moments(activation: fx.Node | None) -> tuple[float, float]:
    """Second moment and variance of an activation of a standard normal input.

    Example:
        >>> graph = fx.Graph()
        >>> node = graph.call_function(torch.relu, (graph.placeholder("x"),))
        >>> [round(x, 3) for x in moments(node)]
        [0.5, 0.34]
    """
    if activation is None:
        return 1.0, 1.0
    levels = torch.linspace(0, 1, 20_003, dtype=torch.float64)[1:-1]
    z = torch.special.ndtri(levels)
    rest, options = activation.args[1:], activation.kwargs
    if any(isinstance(arg, fx.Node) for arg in (*rest, *options.values())):
        return 1.0, 1.0  # it depends on more than its input
    target = activation.target
    if isinstance(target, str):
        y = getattr(z.clone(), target)(*rest, **options)
    else:
        y = target(z.clone(), *rest, **options)
    return float(y.square().mean()), float(y.var())


def resized(module: nn.Module, old: int, new: int) -> nn.Module:
    """A norm with ``new`` channels instead of ``old``, at its initial values.

    Example:
        >>> resized(nn.BatchNorm2d(8), 8, 12).num_features
        12
    """
    twin = copy.deepcopy(module)
    for inner in twin.modules():
        for name, value in list(inner._parameters.items()):
            if value is not None and value.shape[:1] == (old,):
                inner._parameters[name] = nn.Parameter(_filled(value, new))
        for name, buffer in list(inner._buffers.items()):
            if buffer is not None and buffer.ndim == 1 and len(buffer) == old:
                inner._buffers[name] = _filled(buffer, new)
        for name, plain in list(vars(inner).items()):
            if name in ("num_features", "num_channels", "num_parameters"):
                inner.__dict__[name] = new if plain == old else plain
    return twin


def _filled(value: Tensor, size: int) -> Tensor:
    """The first entries as they are, the others at their mean."""
    flat = value.detach()
    more = flat.mean().expand(max(size - len(flat), 0))
    return torch.cat([flat[:size], more]).clone()
