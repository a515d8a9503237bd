"""Lowering: a sparse model becomes one that runs faster, measured, or stays dense.

Zero units are cut out of the graph, then every layer with zeros tries what it can
become on its own input, and last the whole is timed against the dense model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import MaskError, SparsefxError
from sparsefx.lowering.inference_graph import Signature, graph_of
from sparsefx.lowering.layer_trial import DENSE, TARGETS, largest_difference
from sparsefx.lowering.lower_graph import lower_graph
from sparsefx.lowering.lower_modules import lower_modules, sharing, with_layers
from sparsefx.lowering.lowered import Lowered, compiled
from sparsefx.lowering.lowering_report import LayerChoice, Lowering, choice
from sparsefx.lowering.timing import interleaved
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.state_keys import CHILD
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
    compile: bool = True,
    rounds: int = 7,
) -> Lowered:
    """Makes a model with zeros run faster on this machine, or leaves it dense.

    Layers are timed at the shapes of ``example_inputs``, on their device, with the
    current number of threads. Every form is compared with the dense layer first.
    What comes out takes every call that the model takes: those of the same sizes at
    any batch run one graph, others the model's own Python with the same layers.

    Args:
        model: what `finalize` returned, or any model; it is not changed.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, of
            the sizes that matter most.
        target: ``auto`` takes the fastest form of each layer, and the dense model
            where the whole is not faster; ``dense``, ``removal``, ``csr``, ``bsr`` or
            ``semi_structured`` force one wherever it is possible.
        compile: run and time under ``torch.compile``; on a CPU it needs a C++
            compiler. What lies between sparse products is fused by it.
        rounds: samples of each timing, at least 1.

    Returns:
        A module for inference; its ``report`` says what was chosen, the measured
        gain, and why the other forms lost.

    Raises:
        SparsefxError: the target is unknown, no layer can take the forced one, or the
            outputs differ from the model's.
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
    """
    _check(model, target, rounds)
    call = as_call(example_inputs)
    device = _device(model, call)
    before: dict[str, tuple[int, ...]] = {}
    with in_eval(model):
        cut = target in ("auto", "removal")
        found = graph_of(model, example_inputs, shrink=cut)
        planned = None
        if isinstance(found, str):
            trials = lower_modules(model, call, target, rounds, fused=compile)
        else:
            graph, signature = found
            tensors = signature.tensors(*call)
            assert tensors is not None
            graph, trials, before = lower_graph(
                graph,
                tensors,
                target,
                rounds,
                fused=compile,
                original=dict(model.named_parameters(remove_duplicate=False)),
            )
            planned = graph, signature
        rows = tuple(choice(trial, before) for trial in trials)
        made = _Model(with_layers(model, trials, before), planned, rows)
        return _judged(model, made, call, target, device, compile, rounds)


class _Model:
    """A lowered module before it is judged."""

    def __init__(
        self,
        module: nn.Module,
        planned: tuple[fx.GraphModule, Signature] | None,
        rows: tuple[LayerChoice, ...],
    ) -> None:
        self.module = module
        self.planned = planned
        self.rows = rows

    @property
    def changed(self) -> bool:
        return any(row.chosen != DENSE for row in self.rows)


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


def _judged(
    model: nn.Module,
    made: _Model,
    call: Call,
    target: str,
    device: torch.device,
    compile: bool,
    rounds: int,
) -> Lowered:
    args, kwargs = call
    where = _described(device)

    def lowered(verdict: str, times: Mapping[str, float], fast: bool) -> Lowered:
        report = Lowering(made.rows, target, where, times, verdict, fast)
        return Lowered(made.module, report, fast, made.planned)

    with torch.no_grad():
        wanted = model(*args, **kwargs)
        gap = _gap(lowered("", {}, False)(*args, **kwargs), wanted)
        if made.planned is not None:
            gap = max(gap, _gap(made.module(*args, **kwargs), wanted))
    if gap > 1:
        raise SparsefxError(
            f"the lowered model's outputs are not the model's: they differ by {gap:.2g}"
            " times what rounding may do; the model may draw random numbers in eval "
            "mode or keep state between calls, else report a bug"
        )
    if not made.changed:
        if target not in ("auto", DENSE):
            raise SparsefxError(_impossible(target, made.rows))
        return lowered("dense: no layer is faster in another form", {}, compile)
    fast = lowered("", {}, compile)
    dense = compiled(model) if compile else _quiet(model)
    times = interleaved(
        {
            DENSE: lambda: dense(*args, **kwargs),
            "lowered": lambda: fast(*args, **kwargs),
        },
        device,
        rounds,
    )
    gain = times[DENSE] / times["lowered"]
    if target != "auto":
        return lowered(f"{target}: {gain:.2f}x the dense model", times, compile)
    if gain >= WIN:
        return lowered(f"lowered: {gain:.2f}x the dense model", times, compile)
    verdict = f"dense: the whole model would run at {gain:.2f}x"
    rows = tuple(_stayed(row, gain) for row in made.rows)
    report = Lowering(rows, target, where, {DENSE: times[DENSE]}, verdict, compile)
    return Lowered(sharing(model), report, compile)


def _stayed(row: LayerChoice, gain: float) -> LayerChoice:
    """The row of a layer that stays dense because the whole model would not gain."""
    if row.chosen == DENSE:
        return row
    lost = {**row.lost, row.chosen: f"{row.gain:.2g}x alone, whole model {gain:.2g}x"}
    return LayerChoice(
        row.name, row.op, row.shape, row.density, DENSE, 1.0, row.times, lost
    )


def _gap(found: Any, wanted: Any) -> float:
    """The largest difference of any output, in units of what is allowed."""
    pairs = zip(tree_flatten(found)[0], tree_flatten(wanted)[0], strict=True)
    gaps = [
        largest_difference(a, b) / CLOSE.get(b.dtype, HALF)
        for a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor) and b.is_floating_point()
    ]
    return max(gaps, default=0.0)


def _quiet(model: nn.Module) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    return call


def _impossible(target: str, rows: tuple[LayerChoice, ...]) -> str:
    reasons: dict[str, str] = {}
    for row in rows:
        reasons.setdefault(row.lost.get(target, "no zeros"), row.name)
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
