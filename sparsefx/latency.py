"""Latency as a linear cost: layers timed dense and sparse on the user's own device.

A layer with a share d of its weights takes ``fixed + slope * d`` milliseconds in the
form that multiplies only kept weights, and ``dense`` milliseconds otherwise. Both are
measured at the user's shapes, on random masks, and remembered in a file.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsefx.budget import Budget
from sparsefx.errors import BudgetError
from sparsefx.example_inputs import offered
from sparsefx.measurements import cache_file, read, write
from sparsefx.site import Site
from sparsefx.table import percent, text_table

if TYPE_CHECKING:
    from sparsefx.lowering.layers import Dense
    from sparsefx.lowering.products import Kernel

DENSITIES = (0.02, 0.08, 0.2)
KERNELS: tuple[Kernel, ...] = ("gather", "csr")
_WORTH = 0.03  # a layer that is not faster even at this density stays dense


@dataclass(frozen=True, slots=True)
class Line:
    """What a layer takes, in milliseconds.

    Attributes:
        dense: as it is.
        fixed: sparse, with nothing kept.
        slope: sparse, for all that is kept.
        residual: largest distance of a measurement from the line, relative.
        kernel: what multiplies the kept weights.
    """

    dense: float
    fixed: float
    slope: float
    residual: float
    kernel: str

    @property
    def even(self) -> float:
        """The density at which sparse takes as long as dense, in [0, 1].

        Example:
            >>> Line(2.0, 0.5, 5.0, 0.01, "csr").even
            0.3
        """
        if self.slope <= 0:
            return float(self.fixed < self.dense)
        return min(max((self.dense - self.fixed) / self.slope, 0.0), 1.0)


@torch.no_grad()
def measure_layer(
    layer: Dense, x: Tensor, densities: Sequence[float] = DENSITIES, rounds: int = 5
) -> Line:
    """Times one layer, dense and sparse at a few densities, and fits a line.

    Args:
        layer: the dense layer.
        x: an input of the shape that counts.
        densities: kept fractions of the random masks, at least two.
        rounds: samples of each.

    Example:
        >>> from sparsefx.lowering.layers import Dense
        >>> layer = Dense("w", torch.randn(64, 64), None)
        >>> line = measure_layer(layer, torch.randn(4, 64), rounds=1)
        >>> line.dense > 0 and line.slope >= 0
        True
    """
    # the lowering stands above what is imported here, and is needed only now
    from sparsefx.lowering.products import CompressedLayer, NoCandidateError
    from sparsefx.lowering.timing import interleaved

    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
    calls: dict[str, Any] = {"dense": lambda: layer(x)}
    for density in densities:
        cut = replace(layer, weight=layer.weight.detach() * (draw < density))
        for kernel in KERNELS:
            try:
                module = CompressedLayer(cut, kernel)
                module(x)
            except (NoCandidateError, RuntimeError):
                continue  # what this device cannot do
            calls[f"{kernel}@{density}"] = lambda module=module: module(x)
    times = interleaved(calls, x.device, rounds)
    lines = [
        _fitted(times, kernel, densities)
        for kernel in KERNELS
        if all(f"{kernel}@{density}" in times for density in densities)
    ]
    if not lines:
        return Line(times["dense"], times["dense"], 0.0, 0.0, "dense")
    return min(lines, key=lambda line: line.fixed + line.slope * densities[0])


def _fitted(times: Mapping[str, float], kernel: str, at: Sequence[float]) -> Line:
    found = torch.tensor([times[f"{kernel}@{d}"] for d in at], dtype=torch.float64)
    shares = torch.tensor(at, dtype=torch.float64)
    centred = shares - shares.mean()
    slope = max(float((centred * found).sum() / centred.square().sum()), 0.0)
    fixed = max(float(found.mean() - slope * shares.mean()), 0.0)
    gaps = (fixed + slope * shares - found).abs() / found
    return Line(times["dense"], fixed, slope, float(gaps.max()), kernel)


@dataclass(frozen=True, slots=True)
class Latencies:
    """What a model takes, in milliseconds.

    Attributes:
        total: the dense model.
        lines: by parameter name, for the layers that can be sparse.
    """

    total: float
    lines: Mapping[str, Line]

    def __str__(self) -> str:
        rows = [
            (name, f"{x.dense:.4f}", f"{x.fixed:.4f}", f"{x.slope:.4f}", x.kernel,
             percent(x.even), percent(x.residual))
            for name, x in self.lines.items()
        ]  # fmt: skip
        header = (
            "layer",
            "dense ms",
            "fixed",
            "slope",
            "kernel",
            "even at",
            "residual",
        )
        table = text_table(header, rows, right=(1, 2, 3, 5, 6))
        return f"{table}\ndense model: {self.total:.4f} ms"


@torch.no_grad()
def measure(model: nn.Module, inputs: Any, cache: Path | None = None) -> Latencies:
    """Times a model and its linear and convolutional layers, each once.

    Args:
        model: the dense model; it runs in eval mode and is left as it was.
        inputs: a tuple of positional inputs or a dict of keyword inputs.
        cache: file of earlier measurements; by default below ``SPARSEFX_CACHE``, or
            the user's cache folder.
    """
    from sparsefx.lowering.layers import of_module
    from sparsefx.lowering.timing import interleaved

    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    modes = [(module, module.training) for module in model.modules()]
    path = cache or cache_file()
    known: dict[str, Any] = read(path)
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
        model.eval()
        model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    try:
        lines: dict[str, Line] = {}
        for name, (layer, x) in seen.items():
            key = key_of(layer, x)
            if key not in known:
                known[key] = asdict(measure_layer(layer, x))
            lines[name] = Line(**known[key])
        device = next(model.parameters()).device
        total = interleaved({"model": lambda: model(*args, **kwargs)}, device)["model"]
    finally:
        for module, training in modes:
            module.training = training
    write(path, known)
    return Latencies(total, lines)


def with_latency(
    sites: Sequence[Site], found: Latencies, limit: float
) -> tuple[tuple[Site, ...], float]:
    """The sites with the cost ``latency_ms``, and what no mask can save.

    As few layers as possible become sparse, those that save most first, until the
    limit is within reach with each at half the density at which it breaks even; they
    keep below that density. The others stay as they are, and cost nothing to keep.

    Args:
        sites: the maskable weights that are selected.
        found: what was measured.
        limit: milliseconds the whole model may take.

    Raises:
        BudgetError: the limit is below what the model takes with nothing kept.
    """
    import sympy

    gains = {
        site.name: line.dense - line.fixed - 0.5 * line.slope * line.even
        for site in sites
        if (line := found.lines.get(site.name)) is not None
        and line.even >= _WORTH
        and site.granularity.kind == "unstructured"
    }
    chosen: set[str] = set()
    fixed, expected = found.total, found.total
    for name in sorted(gains, key=lambda name: -gains[name]):
        if chosen and expected <= limit:
            break
        chosen.add(name)
        expected -= gains[name]
        fixed += found.lines[name].fixed - found.lines[name].dense
    if limit <= fixed:
        raise BudgetError(
            f"budget {limit:.4g} ms is not above the {fixed:.4g} ms that the model "
            f"takes here with nothing kept; the dense model takes {found.total:.4g} "
            f"ms; raise budget to between them\n\n{found}"
        )
    made = []
    for site in sites:
        slope, most = 0.0, site.max_density
        if site.name in chosen:
            line = found.lines[site.name]
            slope = max(line.slope, 1e-9) / site.numel
            most = max(min(most, line.even), site.min_density)
        costs = {**site.costs, "latency_ms": sympy.Float(slope)}
        made.append(replace(site, costs=costs, max_density=most))
    return tuple(made), fixed


def timed(
    model: nn.Module,
    inputs: Any,
    budgets: Sequence[Budget],
    sites: Sequence[Site],
    dense: Sequence[Site],
) -> tuple[tuple[Site, ...], tuple[Site, ...], tuple[float, float] | None]:
    """Measures, if a budget is of ``latency_ms``.

    Returns:
        Masked and dense sites with that cost, and what no mask can save and what the
        dense model takes; None where no budget asks.

    Raises:
        BudgetError: there are no inputs, or the budget is out of reach.
    """
    import sympy

    asked = [budget for budget in budgets if budget.cost == "latency_ms"]
    if not asked:
        return tuple(sites), tuple(dense), None
    call = inputs[0] if isinstance(inputs, list) else inputs
    call = offered(model) if call is None else call
    if call is None:
        raise BudgetError(
            "a budget of latency_ms is measured, and needs example_inputs; give "
            "example_inputs=(x,) of the shape that counts"
        )
    found = measure(model, call)
    made, fixed = with_latency(sites, found, asked[0].limit(found.total))
    free = {"latency_ms": sympy.Float(0)}
    rest = tuple(replace(site, costs={**site.costs, **free}) for site in dense)
    return made, rest, (fixed, found.total)


def key_of(layer: Dense, x: Tensor) -> str:
    """What a measurement depends on."""
    chip = torch.cuda.get_device_name(x.device) if x.is_cuda else platform.processor()
    shapes = (tuple(layer.weight.shape), tuple(x.shape), layer.window)
    machine = (x.device.type, chip, torch.__version__, torch.get_num_threads())
    return repr((layer.op, *shapes, str(x.dtype), layer.bias is not None, *machine))
