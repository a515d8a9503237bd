"""A call of each operation of the table, on the value between two layers."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

from tests.move_calls import MOVES


def called(name, *args, **kwargs):
    """A call of the table's operation on the value between the layers."""
    target = next(
        getattr(home, spelled)
        for home in (torch, F, torch.Tensor, operator)
        for spelled in (name, f"{name}_")
        if hasattr(home, spelled)
    )
    return lambda x, own: target(x, *args, **kwargs)


# What is made of x, (batch, channels, places), by operation; plain calls take x alone.
CALLS = {
    **MOVES,
    "to": called("to", torch.float64),
    "type": called("type", torch.float64),
    "type_as": lambda x, own: x.type_as(own.scale),
    "float": lambda x, own: x.float().double(),
    "half": lambda x, own: x.half().double(),
    "bfloat16": lambda x, own: x.bfloat16().double(),
    "data": lambda x, own: x.data * x,
    "double": lambda x, own: x.double(),
    "cpu": lambda x, own: x.cpu(),
    **dict.fromkeys(("alias", "cuda"), None),
    **{
        name: called(name, 0.5, False)
        for name in ("dropout", "alpha_dropout", "feature_dropout")
    },
    **{
        f"dropout{n}d": (
            lambda x, own, n=n: getattr(F, f"dropout{n}d")(
                x.reshape(*x.shape, *(1,) * (n - 1)), training=False
            ).flatten(2)
        )
        for n in (1, 2, 3)
    },
    "stochastic_depth": None,
    "masked_weight": None,
    "masked_groups": None,
    "kept_weight": None,
    "gated": None,
    "scored": None,
    "requires_grad": lambda x, own: x.detach().requires_grad_(False),
    **{
        f"{kind}_like": (
            lambda x, own, kind=kind: x * getattr(torch, f"{kind}_like")(x)
        )
        for kind in ("zeros", "ones")
    },
    "full_like": lambda x, own: x + torch.full_like(x, 0.5),
    **{
        f"{kind}_like": (
            lambda x, own, kind=kind: x + 0 * getattr(torch, f"{kind}_like")(x).fill_(1)
        )
        for kind in ("empty", "rand", "randn")
    },
    "hardtanh": called("hardtanh"),
    "threshold": called("threshold", 0.1, 0.2),
    "clamp": called("clamp", -0.5, 0.5),
    "clip": called("clip", -0.5, 0.5),
    "clamp_min": called("clamp_min", 0.1),
    "clamp_max": called("clamp_max", 0.1),
    **{
        name: (lambda x, own, name=name: called(name)(x.abs() + 0.5, own))
        for name in ("log", "log2", "sqrt", "rsqrt", "reciprocal", "log1p")
    },
    "fill": lambda x, own: x * x.clone().fill_(2.0),
    "zero": lambda x, own: x.clone().zero_(),
    **{
        name: (lambda x, own, name=name: torch.where(called(name)(x, own), x, -x))
        for name in ("isnan", "isinf", "isfinite")
    },
    "invert": lambda x, own: torch.where(~(x > 0), x, 2 * x),
    **{
        name: (lambda x, own, name=name: getattr(torch, name)(x, own.scale))
        for name in (
            "add",
            "sub",
            "mul",
            "maximum",
            "minimum",
            "atan2",
            "hypot",
            "rsub",
        )
    },
    **{
        name: (lambda x, own, name=name: called(name, 1.5)(x, own))
        for name in ("true_divide", "floor_divide", "fmod", "remainder", "div")
    },
    "truediv": lambda x, own: x / own.scale.exp(),
    "floordiv": lambda x, own: x // 0.3,
    "mod": lambda x, own: x % 0.7,
    "pow": lambda x, own: x**2,
    "float_power": lambda x, own: x.float_power(2),
    "radd": lambda x, own: 1.0 + x,
    "rmul": lambda x, own: 2.0 * x,
    "rtruediv": lambda x, own: 1.0 / (x.abs() + 1),
    "rpow": lambda x, own: 2.0**x,
    "iadd": lambda x, own: operator.iadd(x.clone(), own.scale),
    "isub": lambda x, own: operator.isub(x.clone(), own.scale),
    "imul": lambda x, own: operator.imul(x.clone(), own.scale),
    "itruediv": lambda x, own: operator.itruediv(x.clone(), 2.0),
    **{
        name: (lambda x, own, name=name: x * getattr(x, name)(0.1))
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    "where": lambda x, own: torch.where(x > own.scale, x, own.scale),
    "masked_fill": lambda x, own: x.masked_fill(x > 0.3, 0.3),
    "lerp": lambda x, own: torch.lerp(x, 2 * x, 0.3),
    "addcmul": lambda x, own: torch.addcmul(x, x, own.scale),
    "addcdiv": lambda x, own: torch.addcdiv(x, x, own.scale.exp()),
    "and": lambda x, own: x * ((x > 0) & (x < 1)),
    "or": lambda x, own: x * ((x > 0) | (x < -1)),
    "xor": lambda x, own: x * ((x > 0) ^ (x < 1)),
    "logical_and": lambda x, own: x * torch.logical_and(x > 0, x < 1),
    "logical_or": lambda x, own: x * torch.logical_or(x > 0, x < -1),
    "logical_not": lambda x, own: x * torch.logical_not(x > 0),
    **{name: called(name, 2) for name in ("softmax", "log_softmax", "cumsum")},
    "normalize": called("normalize", dim=2),
    "local_response_norm": called("local_response_norm", 3),
    **{
        name: (lambda x, own, name=name: called(name, 2, keepdim=True)(x, own))
        for name in ("mean", "sum", "amax", "amin", "prod", "var", "std", "logsumexp")
    },
    "norm": lambda x, own: x.norm(2, 2, keepdim=True),
    "all": lambda x, own: x * (x > -9).all(2, keepdim=True),
    "any": lambda x, own: x * (x > 0).any(2, keepdim=True),
    **{
        f"{kind}_pool{n}d": (
            lambda x, own, kind=kind, n=n: getattr(F, f"{kind}_pool{n}d")(
                x.reshape(*x.shape, *(1,) * (n - 1)),
                *((2,) if kind == "lp" else ()),
                2 if n == 1 else (2, *(1,) * (n - 1)),
            ).flatten(2)
        )
        for kind in ("max", "avg", "lp")
        for n in (1, 2, 3)
    },
    **{
        f"adaptive_{kind}_pool{n}d": (
            lambda x, own, kind=kind, n=n: getattr(F, f"adaptive_{kind}_pool{n}d")(
                x.reshape(*x.shape, *(1,) * (n - 1)), (3, *(1,) * (n - 1))
            ).flatten(2)
        )
        for kind in ("max", "avg")
        for n in (1, 2, 3)
    },
    "interpolate": lambda x, own: F.interpolate(x, scale_factor=2.0),
    "upsample": None,
    "log_sigmoid": None,
    "rdiv": None,
    "pad": lambda x, own: F.pad(x, (1, 1)),
    **{
        name: (
            lambda x, own, name=name: (
                x * getattr(torch, name)(own.places, dtype=x.dtype)
            )
        )
        for name in ("zeros", "ones")
    },
    **dict.fromkeys(("empty", "rand", "randn", "tril_indices"), None),
    "arange": lambda x, own: x * torch.arange(own.places),
    "full": lambda x, own: x * torch.full((own.places,), 2.0),
    "tensor": lambda x, own: x * torch.tensor(2.0),
    "eye": lambda x, own: x @ torch.eye(own.places).double(),
    "as_tensor": None,
    "linspace": lambda x, own: x * torch.linspace(0, 1, own.places),
    **{
        name: (lambda x, own, name=name: x + getattr(x, name)((own.places,)))
        for name in ("new_zeros", "new_ones")
    },
    "new_empty": lambda x, own: x + x.new_empty((own.places,)).fill_(1.0),
    "new_full": lambda x, own: x + x.new_full((own.places,), 2.0),
    "new_tensor": None,
    "one_hot": lambda x, own: (
        x + F.one_hot(torch.arange(own.places), own.places).sum(0)
    ),
    "size": lambda x, own: x.view(x.size(0), x.size(1), x.size(2)),
    "dim": lambda x, own: x * x.dim(),
    "numel": lambda x, own: x / own.scale.numel(),
    "layer_norm": lambda x, own: F.layer_norm(x, (own.places,), own.place, own.place),
    "rms_norm": lambda x, own: F.rms_norm(x, (own.places,), own.place),
    "group_norm": lambda x, own: F.group_norm(x, 4, own.channel, own.channel),
    "batch_norm": lambda x, own: F.batch_norm(
        x, own.mean, own.var, own.channel, own.channel
    ),
    "instance_norm": lambda x, own: F.instance_norm(
        x, None, None, own.channel, own.channel
    ),
    "prelu": lambda x, own: F.prelu(x, own.channel),
    "glu": called("glu", 1),
    "linear": lambda x, own: F.linear(x, own.square),
    "embedding": lambda x, own: (
        x + F.embedding(torch.arange(own.channels), own.table).unsqueeze(0)
    ),
    **{
        f"conv{n}d": (
            lambda x, own, n=n: getattr(F, f"conv{n}d")(
                x.reshape(*x.shape, *(1,) * (n - 1)),
                own.kernel.reshape(own.channels, own.channels, 3, *(1,) * (n - 1)),
                None,
            ).flatten(2)
        )
        for n in (1, 2, 3)
    },
    **{
        f"conv_transpose{n}d": (
            lambda x, own, n=n: getattr(F, f"conv_transpose{n}d")(
                x.reshape(*x.shape, *(1,) * (n - 1)),
                own.kernel.reshape(own.channels, own.channels, 3, *(1,) * (n - 1)),
                None,
            ).flatten(2)
        )
        for n in (1, 2, 3)
    },
    "matmul": lambda x, own: x @ own.square,
    "mm": lambda x, own: x[0].mm(own.square).expand(x.shape),
    "rmatmul": None,
    "bmm": lambda x, own: (x @ x.transpose(1, 2)).bmm(x),
    "addmm": lambda x, own: torch.addmm(own.place, x[0], own.square).expand(x.shape),
    "baddbmm": lambda x, own: torch.baddbmm(x, x @ x.mT, x),
    "einsum": lambda x, own: torch.einsum("bcl,lm->bcm", x, own.square),
    "scaled_dot_product_attention": lambda x, own: F.scaled_dot_product_attention(
        x, x, x
    ),
    "multi_head_attention_forward": None,
}
OTHERWISE = {"pixel_shuffle": 1 / 4, "pixel_unshuffle": 4, "cat": 2, "glu": 1 / 2}


class Between(nn.Module):
    """A convolution, an operation, a convolution.

    Channels come in fours between the layers, places of each in twos.
    """

    def __init__(self, name, channels=8, places=6):
        super().__init__()
        self.call = CALLS.get(name) or called(name)
        self.channels, self.places = channels, places
        self.first = nn.Conv1d(3, channels, 1)
        self.last = nn.Conv1d(int(channels * OTHERWISE.get(name, 1)), 2, 1)
        self.scale = nn.Parameter(torch.randn(channels, 1))
        self.channel = nn.Parameter(torch.rand(channels) + 0.5)
        self.place = nn.Parameter(torch.randn(places))
        self.square = nn.Parameter(torch.randn(places, places))
        self.kernel = nn.Parameter(torch.randn(channels, channels, 3))
        self.table = nn.Parameter(torch.randn(channels, places))
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("var", torch.rand(channels) + 0.5)
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, x):
        return self.last(self.call(self.first(x), self))
