"""Lowering: a sparse model becomes one that runs faster, measured, or stays dense.

Zero units are cut out of the graph, then every layer with zeros tries what it can
become on its own input, and last the whole is timed against the dense model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError, SparsefxError
from sparsefx.lowering.largest_difference import largest_difference
from sparsefx.lowering.layer_trial import (
    DENSE,
    EXACT,
    TARGETS,
    Asked,
    forced,
)
from sparsefx.lowering.lower_modules import sharing
from sparsefx.lowering.lowered import Lowered, compiled
from sparsefx.lowering.lowering_report import LayerChoice, Lowering
from sparsefx.lowering.model_search import Made, search_model
from sparsefx.lowering.precision import (
    PRECISIONS,
    allowed,
    calls_of,
    numbers_of,
    within,
)
from sparsefx.lowering.timing import interleaved
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.state_keys import CHILD
from sparsefx.reports.progress import progress
from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.example_calls import Call, as_call
from sparsefx.tracing.preserve import in_eval

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest output
HALF = 5e-2  # of the largest output, in half precision
WIN = 1.02  # the whole model must be this much faster


def lower(
    model: nn.Module,
    example_inputs: Any,
    target: str = "auto",
    *,
    precision: str = EXACT,
    tolerance: float | None = None,
    calibration: Any = None,
    compile: bool = True,
    rounds: int = 7,
) -> Lowered:
    """Makes a model with zeros run faster on this machine, or leaves it dense.

    Layers are timed at the shapes of ``example_inputs``, on their device, with the
    current number of threads. Every form is compared with the dense layer first.
    What comes out takes every call that the model takes: those of the same sizes at
    any batch run one graph, others the model's own Python with the same layers.

    With a ``precision`` below exact each layer may also be in it, torch's dense one
    included, where that is faster. The change of the model's output is measured,

        change = max |y - y_exact| / max |y_exact|,

    the largest over the outputs and calls; while it is above ``tolerance``, the layers
    that cause most of it become exact again.

    Args:
        model: what `finalize` returned, or any model; it is not changed.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, of
            the sizes that matter most.
        target: ``auto`` takes the fastest form of each layer, and the dense model
            where the whole is not faster; ``dense``, ``removal``, ``csr``, ``bsr`` or
            ``semi_structured`` force one wherever it is possible, ``sparse`` the
            fastest of the last three.
        precision: ``exact`` computes with the weights as they are; ``bf16`` and
            ``int8`` also take layers in these, ``auto`` in any. Activations between
            layers keep their type.
        tolerance: the change that outputs may have, 0 or more; 0.05 if None.
        calibration: a list of calls, each as ``example_inputs``, on which the change is
            measured; the example inputs if None.
        compile: run and time under ``torch.compile``; on a CPU it needs a C++
            compiler. What lies between sparse products is fused by it.
        rounds: samples of each timing, at least 1.

    Returns:
        A module for inference; its ``report`` says what was chosen, the measured
        gain and change, and why the other forms lost.

    Raises:
        SparsefxError: the target or precision is unknown, no layer can take the forced
            one, the outputs differ from the model's, or a setting has no effect.
        MaskError: the model is still in training; finalize it first.
        CaptureError: the model does not run on ``example_inputs``.

    Example:
        >>> net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
        >>> _ = net[0].weight.data[64:].zero_()  # three quarters of the units
        >>> x = torch.randn(32, 64)
        >>> fast = lower(net, (x,), target="removal", compile=False)
        >>> [(row.chosen, row.shape) for row in fast.report.layers]
        [('removal', (256, 64)), ('removal', (8, 256))]
        >>> torch.allclose(fast(x), net(x), atol=1e-5)
        True
        >>> fast = lower(net, (x,), precision="int8", tolerance=0.02, compile=False)
        >>> fast.report.change <= 0.02
        True
    """
    _check(model, target, rounds)
    bound = allowed(precision, tolerance, calibration)
    call = as_call(example_inputs)
    asked = Asked(target, rounds, compile, PRECISIONS[precision])
    with in_eval(model):
        search = search_model(model, example_inputs, asked)
        _verify(model, search.made([t.exact or t for t in search.trials]), call)
        trials, change = search.trials, 0.0
        if precision != EXACT:
            calls = calls_of(calibration, call)
            trials, change = within(
                trials,
                lambda some: _outputs(search.made(some).lowered(), calls),
                _outputs(model, calls),
                bound,
            )
        report = Lowering(
            (), target, _described(_device(model, call)), {}, "", compile,
            precision, change, bound,
        )  # fmt: skip
        return _judged(model, search.made(trials), call, report, rounds)


def _check(model: nn.Module, target: str, rounds: int) -> None:
    if target not in TARGETS:
        raise SparsefxError(
            f"target {target!r} is unknown; known are {', '.join(TARGETS)}"
        )
    if rounds < 1:
        raise SparsefxError(f"rounds is {rounds}; give at least 1")
    if CHILD in unwrapped(model)._modules:
        raise MaskError(
            f"this {type(model).__name__} is still in training; lower what "
            "sparsefx.finalize(model) returns"
        )


@torch.no_grad()
def _outputs(run: Callable[..., Any], calls: Sequence[Call]) -> list[Tensor]:
    return [t for args, kwargs in calls for t in numbers_of(run(*args, **kwargs))]


@torch.no_grad()
def _verify(model: nn.Module, made: Made, call: Call) -> None:
    """Refuses a model whose outputs are not those of the dense one, all exact."""
    wanted = _outputs(model, [call])
    runs = [made.lowered()] if made.planned is None else [made.lowered(), made.module]
    gap = max(_gap(_outputs(run, [call]), wanted) for run in runs)
    if gap > 1:
        raise SparsefxError(
            f"the lowered model's outputs are not the model's: they differ by {gap:.2g}"
            " times what rounding may do; the model may draw random numbers in eval "
            "mode or keep state between calls, else report a bug"
        )


def _judged(
    model: nn.Module, made: Made, call: Call, report: Lowering, rounds: int
) -> Lowered:
    """The lowered model, timed against the dense one; that one where it is faster."""
    args, kwargs = call
    target = report.target

    def lowered(verdict: str, times: Mapping[str, float]) -> Lowered:
        told = dataclasses.replace(report, verdict=verdict, times=times)
        return made.lowered(told)

    if not any(_changed(row) for row in made.rows):
        if target not in ("auto", DENSE):
            raise SparsefxError(_impossible(target, made.rows))
        return lowered("dense: no layer is faster in another form", {})
    fast = lowered("", {})
    dense = compiled(model) if report.compiled else _quiet(model)
    calls: dict[str, Callable[[], object]] = {
        DENSE: lambda: dense(*args, **kwargs),
        "lowered": lambda: fast(*args, **kwargs),
    }
    with progress("lower", len(calls)) as begin:
        for name, run in calls.items():
            begin(f"the whole model, {name}")
            run()  # compiles it
    times = interleaved(calls, _device(model, call), rounds)
    gain = times[DENSE] / times["lowered"]
    if target != "auto":
        return lowered(f"{target}: {gain:.2f}x the dense model", times)
    if gain >= WIN:
        return lowered(f"lowered: {gain:.2f}x the dense model", times)
    told = dataclasses.replace(
        report,
        layers=tuple(_stayed(row, gain) for row in made.rows),
        verdict=f"dense: the whole model would run at {gain:.2f}x",
        times={DENSE: times[DENSE]},
        change=0.0,
    )
    return Lowered(sharing(model), told, report.compiled)


def _changed(row: LayerChoice) -> bool:
    return row.chosen != DENSE or row.precision != EXACT


def _stayed(row: LayerChoice, gain: float) -> LayerChoice:
    """The row of a layer that stays dense because the whole model would not gain."""
    if not _changed(row):
        return row
    lost = {**row.lost, row.key: f"{row.gain:.2g}x alone, whole model {gain:.2g}x"}
    return dataclasses.replace(
        row, chosen=DENSE, gain=1.0, lost=lost, precision=EXACT, change=0.0
    )


def _gap(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of any output, in units of what is allowed."""
    pairs = zip(found, wanted, strict=True)
    gaps = (largest_difference(a, b) / CLOSE.get(b.dtype, HALF) for a, b in pairs)
    return max(gaps, default=0.0)


def _quiet(model: nn.Module) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    return call


def _impossible(target: str, rows: tuple[LayerChoice, ...]) -> str:
    reasons: dict[str, str] = {}
    for row in rows:
        for form in forced(target):
            reasons.setdefault(row.lost.get(form, "no zeros"), row.name)
    told = "; ".join(f"{name}: {why}" for why, name in list(reasons.items())[:4])
    return (
        f"no layer can become {target} ({told or 'the model has no layers'}); use "
        "target='auto', or train with a granularity that fits"
    )


def _device(model: nn.Module, call: Call) -> torch.device:
    tensors = [*model.parameters(), *tree_flatten(call)[0]]
    found = [t.device for t in tensors if isinstance(t, Tensor)]
    return found[0] if found else torch.device("cpu")


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
