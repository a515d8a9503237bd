"""What layers take, dense and sparse, timed on the user's own device and shapes.

A layer with a share d of its weights takes about ``fixed + slope * d`` milliseconds
in the form that `sparsefx.lower` would give it, and ``dense`` milliseconds otherwise.
Random masks of the layer's granularity are timed, and remembered in a file.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.kernels import sparse_product
from sparsefx.kernels.compile_cpu import SOURCES, compiler_path
from sparsefx.lowering import layer_forms
from sparsefx.lowering.dense_layer import Dense, of_module
from sparsefx.lowering.layer_trial import DENSE, EXACT, Asked, try_layer
from sparsefx.lowering.lowered import compiled
from sparsefx.lowering.measurement_cache import cache_file, read, write
from sparsefx.lowering.precision import PRECISIONS
from sparsefx.lowering.timing import interleaved
from sparsefx.masking.site import Site
from sparsefx.policies.latency_line import Line as Line
from sparsefx.reports.text_table import percent, text_table
from sparsefx.tracing.example_calls import Call, as_call
from sparsefx.tracing.preserve import in_eval

DENSITIES = (0.02, 0.08, 0.2)


@torch.no_grad()
def measure_layer(
    layer: Dense,
    x: Tensor,
    site: Site | None = None,
    densities: Sequence[float] = DENSITIES,
    rounds: int = 5,
    precision: str = EXACT,
) -> Line:
    """Times one layer, dense and sparse at a few densities, and fits a line.

    Args:
        layer: the dense layer.
        x: an input of the shape that counts.
        site: says what is dropped together; None drops single weights.
        densities: kept fractions of the random masks, at least two.
        rounds: samples of each.
        precision: what layers may be lowered to, dense ones too.

    Example:
        >>> layer = Dense("w", torch.randn(64, 64), None)
        >>> line = measure_layer(layer, torch.randn(4, 64), rounds=1)
        >>> line.dense > 0 and line.slope >= 0
        True
    """
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
    fused = can_compile(x.device)
    found: list[Mapping[str, float]] = []
    for density in densities:
        kept = largest(draw, density, site)
        cut = replace(layer, weight=layer.weight.detach() * kept)
        asked = Asked("auto", rounds, fused, PRECISIONS[precision])
        found.append(try_layer(cut, x, *asked).times)
    dense = statistics.median([times.get(DENSE, 0.0) for times in found])
    if not dense:
        dense = interleaved({DENSE: lambda: layer(x)}, x.device, rounds)[DENSE]
        return Line(dense, dense, 0.0, 0.0, DENSE)
    took = {
        form: [dense * times[form] / times[DENSE] for times in found]
        for form in sorted(set.intersection(*(set(times) for times in found)))
    }
    whole = [form for form in took if form.partition(" ")[0] == DENSE]
    best = min(statistics.median(took[form]) for form in whole)
    lines = [
        _fitted(took[form], densities, best, form) for form in took if form not in whole
    ]
    if not lines:
        return Line(best, best, 0.0, 0.0, DENSE)
    return min(lines, key=lambda line: line.fixed + line.slope * densities[1])


def largest(values: Tensor, density: float, site: Site | None) -> Tensor:
    """A mask of the weights, or groups of a site, that are largest.

    Example:
        >>> largest(torch.tensor([0.1, -0.3, 0.2, 0.0]), 0.5, None).tolist()
        [False, True, True, False]
    """
    groups = None if site is None else site.groups
    flat = values.abs().flatten() if groups is None else groups.values(values)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[flat.topk(max(1, round(density * len(flat)))).indices] = True
    return kept.reshape(values.shape) if groups is None else groups.expand(values, kept)


def _fitted(
    times: Sequence[float], at: Sequence[float], dense: float, form: str
) -> Line:
    slope, fixed = statistics.linear_regression(at, times)
    slope = max(slope, 0.0)
    fixed = max(statistics.mean(times) - slope * statistics.mean(at), 0.0)
    gaps = [abs(fixed + slope * d - t) / t for d, t in zip(at, times, strict=True)]
    return Line(dense, fixed, slope, max(gaps), form)


@dataclass(frozen=True, slots=True)
class Latencies:
    """What a model takes, in milliseconds.

    Attributes:
        total: the dense model, compiled where this machine can.
        lines: by parameter name, for the layers that can be sparse.
        keys: what the measurement of each depends on.
        precision: of the layers; the model is as it was.
    """

    total: float
    lines: Mapping[str, Line]
    keys: Mapping[str, str] = field(default_factory=dict)
    precision: str = EXACT

    def __str__(self) -> str:
        rows = [
            (name, f"{x.dense:.4f}", f"{x.fixed:.4f}", f"{x.slope:.4f}", x.form,
             percent(x.even), percent(x.residual))
            for name, x in self.lines.items()
        ]  # fmt: skip
        header = ("layer", "dense ms", "fixed", "slope", "form", "even at", "residual")
        table = text_table(header, rows, right=(1, 2, 3, 5, 6))
        return f"{table}\ndense model: {self.total:.4f} ms"


@torch.no_grad()
def measure(
    model: nn.Module,
    inputs: Any,
    sites: Iterable[Site] = (),
    precision: str = EXACT,
) -> Latencies:
    """Times a model and its linear and convolutional layers, each once.

    What was timed before is read from a file (`measurement_cache`).

    Args:
        model: the dense model; it runs in eval mode and is left as it was.
        inputs: a tuple of positional inputs or a dict of keyword inputs.
        sites: what is dropped together in which weight; single weights elsewhere.
        precision: what layers may be lowered to.
    """
    call = as_call(inputs)
    of = {site.name: site for site in sites if site.granularity.kind != "n_of_m"}
    path = cache_file()
    known = read(path)
    with in_eval(model):
        keys: dict[str, str] = {}
        for name, (layer, x) in layers_of(model, call).items():
            site = of.get(name)
            key = keys[name] = key_of(layer, x, site, precision)
            if key not in known.lines:
                line = measure_layer(layer, x, site, precision=precision)
                known.lines[key] = line
        device = next(model.parameters()).device
        run = compiled(model) if can_compile(device) else model
        total = interleaved({DENSE: lambda: run(*call[0], **call[1])}, device)[DENSE]
    write(path, known)
    lines = {name: known.lines[key] for name, key in keys.items()}
    return Latencies(total, lines, keys, precision)


def layers_of(model: nn.Module, call: Call) -> dict[str, tuple[Dense, Tensor]]:
    """The layers that can be lowered, and what each is called with first."""
    seen: dict[str, tuple[Dense, Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if of_module(name, module) is not None:

            def note(module: nn.Module, given: Any, name: str = name) -> None:
                layer = of_module(name, module)
                if layer is not None and given and layer.name not in seen:
                    seen[layer.name] = (layer, given[0].detach())

            hooks.append(module.register_forward_pre_hook(note))
    try:
        model(*call[0], **call[1])
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` can make code for a device here.

    Example:
        >>> can_compile(torch.device("cuda"))
        True
    """
    return device.type != "cpu" or compiler_path() is not None


def key_of(
    layer: Dense, x: Tensor, site: Site | None = None, precision: str = EXACT
) -> str:
    """What a measurement depends on."""
    chip = torch.cuda.get_device_name(x.device) if x.is_cuda else platform.processor()
    shapes = (tuple(layer.weight.shape), tuple(x.shape), layer.window)
    machine = (x.device.type, chip, torch.__version__, torch.get_num_threads())
    cut = str(site.granularity) if site else "unstructured"
    here = (*machine, can_compile(x.device), _code())
    return repr((layer.op, *shapes, cut, str(x.dtype), precision, *here))


def _code() -> str:
    """What changes with the products and with the forms that a layer may take."""
    files = (*SOURCES, Path(sparse_product.__file__), Path(layer_forms.__file__))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]
