"""What training does, recorded: losses, costs and masks of many short runs.

A recording is compared with that of another revision bit by bit
(`benchmarks/compare_trajectories.py`), or with `trajectories.json` within a tolerance
(`test_trajectories.py`). It uses nothing but the public names of sparsefx, so that one
file records every revision. From the root of the repository:

    PYTHONPATH=. python tests/trajectories.py OUT.json              # everything
    PYTHONPATH=. python tests/trajectories.py OUT.json --compact    # the test's values
    PYTHONPATH=. python tests/trajectories.py OUT.json --only rigl  # cases by text
"""

import argparse
import functools
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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
# Learners that are to be given the optimizer, unless they keep its state.
MOVING = ("set", "rigl", "granet", "magnitude")


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


@contextmanager
def steady() -> Iterator[None]:
    """One thread, a seed, no warnings; all is put back behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def record(case: Case) -> dict[str, Any]:
    """What one run does, or the error that refuses it."""
    with steady():
        try:
            return _trained(case)
        except Exception as error:
            first = str(error).split("\n")[0].split("; ")[0].split(". ")[0]
            return {"error": {"class": type(error).__name__, "says": first}}


def _trained(case: Case) -> dict[str, Any]:
    settings = {"total_steps": STEPS, "update_every": EVERY, **case.options}
    policy = sparsefx.load_policy(case.policy, **settings)
    given: dict[str, Any] = {}
    if case.calibrated:
        given = {
            "calibration": [batch(-1), batch(-2)],
            "loss": functools.partial(F.cross_entropy, label_smoothing=0.1),
        }
    inputs = (batch(0)[0],)
    sparse = sparsefx.transform(
        made(case.model), policy, example_inputs=inputs, **given
    )
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(sparse.parameters(), lr=0.01)
        if case.adam
        else torch.optim.SGD(sparse.parameters(), lr=0.05, momentum=0.9)
    )
    moving = policy.learner in MOVING and policy.optimizer_state == "zero"
    wanted = optimizer if moving and policy.dropped == "zero" else None
    steps = []
    for index in range(STEPS):
        x, y = batch(index)
        loss = F.cross_entropy(sparse(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(_step(loss, sparsefx.step(sparse, wanted)))
    report = sparsefx.report(sparse).to_dict()
    masks = sparsefx.masks(sparse)
    parameters = {n: _sums(p) for n, p in sparse.named_parameters()}
    dense = sparsefx.finalize(sparse).eval()
    with torch.no_grad():
        loss = F.cross_entropy(dense(batch(STEPS)[0]), batch(STEPS)[1])
    return {
        "steps": steps,
        "final": {
            "loss": float(loss),
            "masks": {
                n: {"kept": int(m.sum()), "of": m.numel(), "sha256": _sha(m.bool())}
                for n, m in masks.items()
            },
            "totals": report["totals"],
            "budgets": report["budgets"],
            "densities": {row["name"]: row["density"] for row in report["layers"]},
            "parameters": parameters,
            "finalized": {n: _sha(v) for n, v in dense.state_dict().items()},
        },
    }


def _step(loss: Tensor, info: Any) -> dict[str, Any]:
    found = {
        "loss": float(loss),
        "budget": float(info.budget),
        "soft_cost": float(info.soft_cost),
        "hard_cost": float(info.hard_cost),
        "changed": float(info.changed),
        "frozen": bool(info.frozen),
    }
    if len(info.budgets) > 1:
        found["budgets"] = {n: [float(v) for v in b] for n, b in info.budgets.items()}
    return found


def _sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()


def _sums(tensor: Tensor) -> dict[str, Any]:
    values = tensor.detach().double()
    return {
        "sum": float(values.sum()),
        "squares": float(values.square().sum()),
        "sha256": _sha(tensor),
    }


SERIES = ("loss", "soft_cost", "hard_cost", "budget", "changed", "frozen")


def compact(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a check within a tolerance needs: series by runs, counts, sums."""
    if "error" in found:
        return {"error": found["error"]["class"]}
    steps, final = found["steps"], found["final"]
    return {
        "steps": {n: _runs([step[n] for step in steps]) for n in SERIES},
        "loss": _short(final["loss"]),
        "kept": {n: mask["kept"] for n, mask in final["masks"].items()},
        "spent": {n: _short(b["kept"]) for n, b in final["budgets"].items()},
        "totals": {
            n: [_short(t["kept"]), _short(t["dense"]), _short(t["fixed"])]
            for n, t in final["totals"].items()
        },
        "squares": _short(sum(p["squares"] for p in final["parameters"].values())),
    }


def _short(value: float) -> float:
    """Twelve digits; numbers that are whole are written without a point."""
    short = float(f"{value:.12g}")
    return int(short) if short.is_integer() else short


def _runs(values: Sequence[float]) -> list[Any]:
    """Values; those that come several times in a row as [value, times]."""
    runs: list[list[Any]] = []
    for value in map(_short, values):
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return [value if times == 1 else [value, times] for value, times in runs]


def unrolled(runs: Sequence[Any]) -> list[float]:
    """The values that `_runs` has shortened."""
    found: list[float] = []
    for run in runs:
        value, times = run if isinstance(run, list) else (run, 1)
        found += [value] * times
    return found


def write(path: Path, recorded: Mapping[str, Any]) -> None:
    """JSON, one case a line."""
    lines = (
        f"{json.dumps(name)}:{json.dumps(found, separators=(',', ':'))}"
        for name, found in recorded.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="record what training does")
    parser.add_argument("out", type=Path)
    parser.add_argument("--compact", action="store_true", help="no hashes, few digits")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--times", action="store_true", help="print seconds by case")
    options = parser.parse_args()
    print("recording", Path(sparsefx.__file__).resolve().parent, flush=True)
    recorded = {}
    for case in cases():
        if options.only in case.name:
            start = time.process_time()
            found = record(case)
            recorded[case.name] = compact(found) if options.compact else found
            if options.times:
                told = found.get("error", "")
                print(f"{time.process_time() - start:5.2f} {case.name} {told}")
    write(options.out, recorded)


if __name__ == "__main__":
    main()
