"""Tries the candidates for one layer on the layer's own input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsefx.lowering.dense_layer import Dense, columns_of
from sparsefx.lowering.layer_forms import FORMS, CompressedLayer, NoCandidateError
from sparsefx.lowering.timing import interleaved

DENSE = "dense"
TARGETS = ("auto", DENSE, *FORMS)
WIN = 1.05  # a form must be this much faster: less is noise, and dense is simpler
SPARSEST = 0.6  # a denser matrix is never faster compressed
_CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest output


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What became of one layer.

    Attributes:
        name: the weight's name.
        op: ``linear`` or ``conv2d``.
        shape: the weight's shape.
        density: share of non-zero weights, in [0, 1].
        chosen: the form.
        times: milliseconds of each form that was run.
        lost: why each other form was not chosen.
        module: what computes the chosen form; None for ``dense``.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    density: float
    chosen: str
    times: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    module: nn.Module | None = None

    @property
    def gain(self) -> float:
        """Time of the dense layer over that of the chosen form; 1 if not timed."""
        if DENSE not in self.times or self.chosen not in self.times:
            return 1.0
        return self.times[DENSE] / self.times[self.chosen]


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """``max |found - wanted|`` over ``max |wanted|``; infinity for other shapes.

    Example:
        >>> largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        0.5
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not wanted.numel():
        return 0.0
    size = wanted.abs().max().double().item()
    gap = (found.double() - wanted.double()).abs().max().item()
    return gap / size if size else gap


@torch.no_grad()
def try_layer(
    layer: Dense,
    x: Tensor,
    target: str = "auto",
    rounds: int = 7,
    *,
    fused: bool = False,
) -> Trial:
    """Measures what ``layer`` can become on input ``x`` and picks the fastest.

    Every form is compared with the dense layer before it is timed.

    Args:
        layer: the dense layer.
        x: its input.
        target: ``auto``, or the form to take wherever it is possible.
        rounds: samples of each.
        fused: time compressed layers without changes of layout, which a compiler
            makes part of what comes before and after.

    Example:
        >>> layer = Dense("weight", torch.zeros(4, 4).fill_diagonal_(1), None)
        >>> try_layer(layer, torch.randn(3, 4), target="csr").chosen
        'csr'
    """
    if layer.density == 1 or target == DENSE:
        why = "it was not asked for" if target == DENSE else "it has no zeros"
        return _trial(layer, DENSE, {}, dict.fromkeys(FORMS, why))
    wanted = layer(x)
    forms = FORMS if target == "auto" else {target: FORMS[target]}
    modules: dict[str, list[nn.Module]] = {}
    lost: dict[str, str] = {}
    for form, makers in forms.items():
        if target == "auto" and form in ("csr", "bsr") and layer.density > SPARSEST:
            lost[form] = f"{1 - layer.density:.0%} zeros"
            continue
        for make in makers:
            try:
                module = make(layer)
                why = _refused(module, x, wanted)
            except NoCandidateError as error:
                why = str(error)
            except RuntimeError as error:  # a kernel that this device or build lacks
                why = _first_line(error)
            if why:
                lost.setdefault(form, why)
            else:
                modules.setdefault(form, []).append(module)
        if form in modules:
            lost.pop(form, None)
    return _fastest(layer, x, modules, lost, target, rounds, fused)


@torch.no_grad()
def against_uncut(
    trial: Trial, layer: Dense, weight: Tensor, x: Tensor, rounds: int
) -> Trial:
    """The trial of a layer that was cut, timed against the layer as it was.

    Args:
        trial: what the smaller layer became; its dense time is that of ``removal``.
        layer: the smaller layer.
        weight: the weight before the cut.
        x: the smaller layer's input.
        rounds: samples of each.

    Example:
        >>> layer = Dense("w", torch.ones(2, 4), None)
        >>> found = against_uncut(
        ...     try_layer(layer, torch.ones(1, 4), rounds=1),
        ...     layer, torch.ones(8, 4), torch.ones(1, 4), 1)
        >>> sorted(found.times)
        ['dense', 'removal']
    """
    axis = x.ndim - 1 if layer.window is None else 1
    sizes = [*x.shape[:axis], weight.shape[1], *x.shape[axis + 1 :]]
    before = Dense(layer.name, weight, layer.bias, layer.window)
    if layer.bias is not None:
        bias = layer.bias.new_zeros(weight.shape[0])
        before = dataclasses.replace(before, bias=bias)
    whole = torch.randn(sizes, dtype=x.dtype, device=x.device)
    calls = {DENSE: lambda: before(whole), "removal": lambda: layer(x)}
    times = interleaved(calls, x.device, rounds)
    if DENSE in trial.times:  # the smaller layer's other forms, on the same scale
        scale = times["removal"] / trial.times[DENSE]
        others = {k: v * scale for k, v in trial.times.items() if k != DENSE}
        times = others | times
    return dataclasses.replace(trial, times=times)


def _refused(module: nn.Module, x: Tensor, wanted: Tensor) -> str:
    try:
        gap = largest_difference(module(x), wanted)
    except (RuntimeError, NotImplementedError) as error:
        return _first_line(error)
    most = _CLOSE.get(x.dtype, 2e-2)
    return "" if gap <= most else f"differs by {gap:.1g} of the largest output"


def _fastest(
    layer: Dense,
    x: Tensor,
    modules: Mapping[str, Sequence[nn.Module]],
    lost: dict[str, str],
    target: str,
    rounds: int,
    fused: bool,
) -> Trial:
    calls: dict[str, Callable[[], object]] = {DENSE: lambda: layer(x)}
    found: dict[str, nn.Module] = {}
    for form, made in modules.items():
        for number, one in enumerate(made):
            key = f"{form} {number}"
            found[key] = one
            calls[key] = timed_call(one, x, fused)
    if not found:
        return _trial(layer, DENSE, {}, lost)
    measured = interleaved(calls, x.device, rounds)
    best = {DENSE: DENSE}
    for key in found:
        form = key.split()[0]
        if form not in best or measured[key] < measured[best[form]]:
            best[form] = key
    times = {form: measured[key] for form, key in best.items()}
    chosen = min(times, key=times.__getitem__)
    if target != "auto":
        chosen = target
    elif times[DENSE] < WIN * times[chosen]:
        chosen = DENSE
    for form in times:
        if form not in (chosen, DENSE):
            lost[form] = f"{times[DENSE] / times[form]:.2g}x"
    return _trial(layer, chosen, times, lost, found.get(best[chosen]))


def timed_call(module: nn.Module, x: Tensor, fused: bool) -> Callable[[], object]:
    """What is timed of a candidate; see `try_layer`.

    Example:
        >>> timed_call(nn.Identity(), torch.ones(2), fused=True)()
        tensor([1., 1.])
    """
    if not fused or not isinstance(module, CompressedLayer):
        return lambda: module(x)
    if module.window is None or module.window.is_point:
        ready = module.laid_out(columns_of(x, module.window)).contiguous()
        return lambda: module.product(ready)
    return lambda: module.product(module.laid_out(columns_of(x, module.window)))


def _trial(
    layer: Dense,
    chosen: str,
    times: Mapping[str, float],
    lost: Mapping[str, str],
    module: nn.Module | None = None,
) -> Trial:
    return Trial(
        layer.name,
        layer.op,
        tuple(layer.weight.shape),
        layer.density,
        chosen,
        times,
        lost,
        module,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
