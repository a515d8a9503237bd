"""What a call does beside returning a value: modes, hooks, in-place, buffers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from traps.base import trap, x


class Doubled(torch.autograd.Function):
    """The identity; its gradient is doubled."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class Rounded(torch.autograd.Function):
    """Rounds; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, levels: int) -> Tensor:
        return torch.round(v * levels) / levels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def no_grad(m: Any, v: Tensor) -> Tensor:
    with torch.no_grad():
        v = m.a(v)
    return m.b(v)


def enable_grad(m: Any, v: Tensor) -> Tensor:
    with torch.no_grad():
        y = torch.tanh(v)
        with torch.enable_grad():
            y = m.a(y)
    return m.b(y)


def autocast(m: Any, v: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        v = m.a(v)
    return m.b(v.float())


def autocast_off(m: Any, v: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        v = m.a(v)
    return m.b(v)


def straight_through(m: Any, v: Tensor) -> Tensor:
    weight = Rounded.apply(m.a.weight, 8)
    return m.b(F.linear(v, weight, m.a.bias))


def detached(m: Any, v: Tensor) -> Tensor:
    y = m.a(v)
    return m.b(y + (torch.sign(y) - y).detach())


def from_data(m: Any, v: Tensor) -> Tensor:
    scale = m.a.weight.data.abs().mean()
    return m.b(m.a(v) / scale)


def views_in_place(m: Any, v: Tensor) -> Tensor:
    y = m.a(v)
    y[:, :2] += 1
    y[:, 2:].mul_(2)
    y.t()[0].zero_()
    return m.b(y)


def relu_in_place(m: Any, v: Tensor) -> Tensor:
    return m.b(F.relu(m.a(v) + 1, inplace=True))


def written_input(m: Any, v: Tensor) -> Tensor:
    y = v.clone()
    y[y > 0] = 0.5
    y.masked_fill_(y < -1, -1.0)
    return m.b(m.a(y))


class Average(nn.Module):
    """A buffer updated in place while training, and one re-bound."""

    def __init__(self, rebind: bool) -> None:
        super().__init__()
        self.a, self.rebind = nn.Linear(6, 6), rebind
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, v: Tensor) -> Tensor:
        y = self.a(v)
        if self.training:
            mean = y.detach().mean(0)
            if self.rebind:
                self.mean = 0.9 * self.mean + 0.1 * mean
            else:
                self.mean.mul_(0.9).add_(mean, alpha=0.1)
                self.count += 1
        return y - self.mean


class Counting(nn.Module):
    """Counts its calls in a Python number that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls = nn.Linear(6, 6), 0

    def forward(self, v: Tensor) -> Tensor:
        self.calls += 1
        return self.a(v)


def tensor_hook(m: Any, v: Tensor) -> Tensor:
    y = m.a(v)
    if y.requires_grad:
        y.register_hook(lambda grad: 3 * grad)
    return m.b(y)


def hooked() -> Any:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[0].register_forward_hook(lambda m, args, out: 2 * out)
    model[2].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    return model, (x(),)


def checkpointed(m: Any, v: Tensor) -> Tensor:
    return m.b(checkpoint(m.a, v, use_reentrant=False))


def checkpointed_again(m: Any, v: Tensor) -> Tensor:
    return m.b(checkpoint(m.a, v, use_reentrant=True))


def scripted() -> Any:
    child = torch.jit.script(nn.Linear(6, 6))
    return nn.Sequential(nn.Linear(6, 6), child, nn.Linear(6, 6)), (x(),)


def inner_gradient(m: Any, v: Tensor) -> Tensor:
    with torch.enable_grad():
        y = v.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.tanh(m.a(y)).sum(), y)
    return m.b(slope)


MODELS = {
    "no_grad": trap(no_grad),
    "enable_grad": trap(enable_grad),
    "autocast": trap(autocast),
    "autocast_off": trap(autocast_off),
    "custom_backward": trap(lambda m, v: m.b(Doubled.apply(m.a(v)))),
    "straight_through_weight": trap(straight_through),
    "detach": trap(detached),
    "data_of_a_weight": trap(from_data),
    "in_place_on_views": trap(views_in_place),
    "in_place_relu": trap(relu_in_place),
    "in_place_by_mask": trap(written_input),
    "buffer_in_place": lambda: (Average(False), (x(),)),
    "buffer_rebound": lambda: (Average(True), (x(),)),
    "counter": lambda: (Counting(), (x(),)),
    "tensor_hook": trap(tensor_hook),
    "module_hooks": hooked,
    "checkpoint": trap(checkpointed),
    "checkpoint_reentrant": trap(checkpointed_again, lambda: (x().requires_grad_(),)),
    "scripted_child": scripted,
    "gradient_inside": trap(inner_gradient),
}
