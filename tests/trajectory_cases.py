"""The runs that are recorded: models, policies, their options, batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx

STEPS = 30
EVERY = 5
BATCH = 4
CHANNELS = 4
CLASSES = 16
# It measures times: its densities differ from run to run.
SKIPPED = ("same_latency",)


class ConvNet(nn.Module):
    """Two convolutions, batch norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        return self.head(torch.tanh(self.conv2(x)).flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A patch embedding, a class token, two blocks, a head."""

    def __init__(self, width: int = 16, heads: int = 4, hidden: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(CHANNELS, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


MODELS: Mapping[str, Callable[[], nn.Module]] = {"conv": ConvNet, "vit": Vit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: a model, a policy and its options, an optimizer."""

    name: str
    model: str
    policy: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrated: bool = False
    adam: bool = False


def even(sites: Sequence[Any], budget: Any) -> dict[str, float]:
    """A policy that is a function: less and less from layer to layer."""
    return {site.name: 0.1 + 0.2 / (i + 1) for i, site in enumerate(sites)}


NEEDED: Mapping[str, Mapping[str, Any]] = {
    "layerwise": {"densities": {"*": 0.2, "head": 0.5}},
}

# Name: models, policy, options. Names ending in "adam" are trained by Adam.
GUARDED: Mapping[str, tuple[str, Any, Mapping[str, Any]]] = {
    "two budgets": (
        "conv vit",
        "cost_budget",
        {"budget": {"macs": 0.3, "params": 0.3}},
    ),
    "two budgets, magnitude": (
        "conv",
        "magnitude",
        {"budget": {"macs": 0.3, "params": 0.3}},
    ),
    "two budgets, rigl": ("conv", "rigl", {"budget": {"macs": 0.3, "params": 0.3}}),
    "bounds of layers": (
        "conv",
        "cost_budget",
        {"layers": {"conv1": {"min_density": 0.6}, "head": {"max_density": 0.2}}},
    ),
    "density of a layer": (
        "vit",
        "cost_budget",
        {"layers": {"blocks.0.attn.*": {"density": 0.5}}, "min_density": 0.05},
    ),
    "granularity of a layer": (
        "conv",
        "cost_budget",
        {"layers": {"conv2": {"granularity": "channel"}}},
    ),
    "1:4": ("vit", "cost_budget", {"granularity": "1:4", "budget": 0.5}),
    "2:4, magnitude": ("vit", "magnitude", {"granularity": "2:4", "budget": 0.6}),
    "blocks": ("vit", "cost_budget", {"granularity": "block:4x4"}),
    "blocks, rigl": ("vit", "rigl", {"granularity": "block:4x4"}),
    "channels": ("conv", "cost_budget", {"granularity": "channel", "budget": 0.5}),
    "channels by fours": (
        "conv",
        "cost_budget",
        {"granularity": "channel", "budget": 0.5, "round_to": 4},
    ),
    "kernels": ("conv", "cost_budget", {"granularity": "kernel", "fallback": "dense"}),
    "params": ("conv vit", "cost_budget", {"budget": {"params": 0.2}}),
    "bytes as bitmask": (
        "vit",
        "cost_budget",
        {"budget": {"bytes": 0.4}, "storage": "bitmask"},
    ),
    "cost that mixes": ("conv", "cost_budget", {"cost": "0.7*macs + 0.3*params"}),
    "cost of one's own": (
        "conv",
        "cost_budget",
        {"budget": {"energy": 0.3}, "costs": {"energy": {"*": 2.0, "head": 5.0}}},
    ),
    "budget of the model": ("vit", "spartan", {"budget_of": "model"}),
    "inclusive": (
        "conv",
        "cost_budget",
        {"inclusive": True, "keep_units": False, "budget": 0.2},
    ),
    "function": ("conv vit", even, {"budget": 0.6}),
    "units and weights": (
        "vit",
        "spartan",
        {"unit_density": 0.6, "budget": {"macs": 0.3}, "keep_units": False},
    ),
    "sensitivity, rigl": (
        "vit",
        "sensitivity",
        {"learner": "rigl", "budget_ramp": "constant"},
    ),
    "soft units": ("conv vit", "units", {"learner": "units_soft_topk"}),
    "units of params": ("vit", "units", {"budget": {"params": 0.6}}),
    "units that never freeze": ("vit", "units", {"freeze_step": None}),
    "half a backward pass": ("conv", "topkast", {"backward_density": 0.6}),
    "every step": ("conv", "magnitude", {"update_every": 1, "freeze_step": None}),
    "another seed": ("conv", "set", {"seed": 3}),
    "layers left out": ("vit", "granet", {"exclude": ("head", "blocks.1.mlp.*")}),
    "other ramps": (
        "conv",
        "spartan",
        {
            "begin_step": 4,
            "end_step": 17,
            "budget_ramp": "cosine",
            "beta_ramp": "cubic",
            "initial_budget": 0.8,
            "freeze_step": 23,
        },
    ),
    "no schedule": ("conv", "cost_budget", {"total_steps": None}),
    "tokens deeper": (
        "vit",
        "svite_tokens",
        {"tokens": {"before": 1, "keep": 0.5}, "budget": 1.0},
    ),
    "rigl, adam": ("vit", "rigl", {}),
    "svite, adam": ("vit", "svite", {}),
    "set, adam": ("conv", "set", {}),
}


def cases() -> Iterator[Case]:
    """All presets on both models, then what is guarded besides."""
    for preset in sparsefx.policies():
        if preset in SKIPPED:
            continue
        for model in MODELS:
            needed = dict(NEEDED.get(preset, {}))
            policy = sparsefx.load_policy(preset, **needed)
            if policy.budget == 0.1 and policy.rewrite == "none":
                needed["budget"] = 0.3  # a tenth of so little is next to nothing
            yield Case(
                name=f"{model}: {preset}",
                model=model,
                policy=preset,
                options=needed,
                calibrated=preset == "sensitivity",
            )
    for name, (models, source, options) in GUARDED.items():
        for model in models.split():
            yield Case(
                name=f"{model}: {name}",
                model=model,
                policy=source,
                options={"budget": 0.3, **options},
                calibrated=source == "sensitivity",
                adam=name.endswith("adam"),
            )


@torch.no_grad()
def made(name: str) -> nn.Module:
    """The model in float64; drawn so, since float32 is rounded by the processor."""
    model = MODELS[name]().double()
    generator = torch.Generator().manual_seed(0)
    for path, value in model.named_parameters():
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.ndim > 1:
            value.copy_(drawn / value[0].numel() ** 0.5)
        else:
            value.copy_(float("norm" in path and path.endswith("weight")) + drawn / 10)
    return model


def batch(index: int) -> tuple[Tensor, Tensor]:
    """Pictures and classes, of a generator of their own."""
    generator = torch.Generator().manual_seed(1000 + index)
    x = torch.randn(BATCH, CHANNELS, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)
