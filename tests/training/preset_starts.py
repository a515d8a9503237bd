"""A small network transformed by each preset, once, and copied."""

import functools
import warnings

import torch
from torch import nn

import sparsefx

TOTAL = 12
PRESETS: dict[str, dict[str, object]] = {
    "cost_budget": {},
    "spartan": {},
    "spartan_block": {"granularity": "block:4x4", "exclude": ("4",)},
    "nm_2_4": {},
    "erk": {},
    "uniform": {},
    "magnitude": {},
    "gmp": {},
    "topkast": {},
    "fixed": {},
    "set": {},
    "rigl": {},
    "granet": {},
    "granet_sparse": {},
    "units": {"budget": 0.6},
    "svite_units": {"budget": 0.6},
    "mixed": {"unit_density": 0.7, "budget": {"macs": 0.3}},
    "several": {"budget": {"macs": 0.4, "params": 0.4}},
}
NAMES = {"mixed": "spartan", "several": "cost_budget"}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)
    )


X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 4


@functools.cache
def base(preset: str, every: int) -> nn.Module:
    given: dict[str, object] = {
        "total_steps": TOTAL,
        "update_every": every,
        **PRESETS[preset],
    }
    if "budget" not in given and not preset.startswith("nm"):
        given["budget"] = 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = NAMES.get(preset, preset)
        return sparsefx.transform(net(), name, example_inputs=(X,), **given)
