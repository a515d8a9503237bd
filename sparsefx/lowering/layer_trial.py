"""Tries the candidates for one layer on the layer's own input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsefx.lowering.dense_layer import Dense, columns_of
from sparsefx.lowering.largest_difference import largest_difference
from sparsefx.lowering.layer_forms import (
    FORMS,
    SPARSEST,
    CompressedLayer,
    NoCandidateError,
)
from sparsefx.lowering.reduced_layers import REDUCED
from sparsefx.lowering.timing import interleaved

DENSE, EXACT = "dense", "exact"
SPARSE = tuple(form for form in FORMS if form != "removal")
TARGETS = ("auto", DENSE, "sparse", *FORMS)
WIN = 1.05  # a form must be this much faster: less is noise, and dense is simpler
COMPRESSED = ("csr", "bsr")
_CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest output
_BROKEN = 0.5  # of the largest output: more than any precision is to blame for


class Asked(NamedTuple):
    """What layers may become: the last arguments of `try_layer`."""

    target: str = "auto"
    rounds: int = 7
    fused: bool = False
    precisions: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What became of one layer.

    Attributes:
        name: the weight's name.
        op: ``linear`` or ``conv2d``.
        shape: the weight's shape.
        density: share of non-zero weights, in [0, 1].
        chosen: the form.
        times: milliseconds of each form that was run; where it is not exact, its
            precision stands behind its name, as in ``csr int8``.
        lost: why each other form was not chosen.
        module: what computes the chosen form; None for ``dense``.
        precision: of the chosen form.
        change: of the layer's output, as a share of the largest one.
        exact: where the chosen form is not exact, what the layer becomes if it must be.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    density: float
    chosen: str
    times: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    module: nn.Module | None = None
    precision: str = EXACT
    change: float = 0.0
    exact: Trial | None = None

    @property
    def key(self) -> str:
        """The chosen form, as ``times`` and ``lost`` name it."""
        exact = self.precision == EXACT
        return self.chosen if exact else f"{self.chosen} {self.precision}"

    @property
    def gain(self) -> float:
        """Time of the dense layer over that of the chosen form; 1 if not timed."""
        if DENSE not in self.times or self.key not in self.times:
            return 1.0
        return self.times[DENSE] / self.times[self.key]


@torch.no_grad()
def try_layer(
    layer: Dense,
    x: Tensor,
    target: str = "auto",
    rounds: int = 7,
    fused: bool = False,
    precisions: Sequence[str] = (),
) -> Trial:
    """Measures what ``layer`` can become on input ``x`` and picks the fastest.

    Every form is compared with the dense layer before it is timed.

    Args:
        layer: the dense layer.
        x: its input.
        target: ``auto``, or the form to take wherever it is possible, the fastest
            where ``sparse`` stands for several.
        rounds: samples of each.
        fused: time compressed layers without changes of layout, which a compiler
            makes part of what comes before and after.
        precisions: those that it may have beside exact: ``bf16``, ``int8``.

    Example:
        >>> layer = Dense("weight", torch.zeros(4, 4).fill_diagonal_(1), None)
        >>> try_layer(layer, torch.randn(3, 4), target="csr").chosen
        'csr'
    """
    makers, lost = _candidates(layer, target, precisions)
    wanted = layer(x)
    modules: dict[str, list[nn.Module]] = {}
    changes: dict[nn.Module, float] = {}
    for name, some in makers.items():
        for make in some:
            try:
                module = make(layer)
                changes[module] = largest_difference(module(x), wanted)
                why = _refused(changes[module], x, exact=name in FORMS)
            except NoCandidateError as error:
                why = str(error)
            except RuntimeError as error:  # a kernel that this device or build lacks
                why = _first_line(error)
            if why:
                lost.setdefault(name, why)
            else:
                modules.setdefault(name, []).append(module)
        if name in modules:
            lost.pop(name, None)
    calls: dict[str, Callable[[], object]] = {DENSE: lambda: layer(x)}
    found: dict[str, nn.Module] = {}
    for name, made in modules.items():
        for number, one in enumerate(made):
            found[f"{name} {number}"] = one
            calls[f"{name} {number}"] = timed_call(one, x, fused)
    measured = interleaved(calls, x.device, rounds)
    best = {DENSE: DENSE}
    for key in found:
        name = key.rpartition(" ")[0]
        if name not in best or measured[key] < measured[best[name]]:
            best[name] = key
    times = {name: measured[key] for name, key in best.items()}
    chosen = {name: found.get(key) for name, key in best.items()}
    return _fastest(layer, chosen, changes, times, lost, target)


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
    exact = trial.exact and dataclasses.replace(trial.exact, times=times)
    return dataclasses.replace(trial, times=times, exact=exact)


def forced(target: str) -> tuple[str, ...]:
    """The forms that a target stands for; none for ``auto``, which forces nothing.

    Example:
        >>> forced("sparse"), forced("dense"), forced("auto")
        (('csr', 'bsr', 'semi_structured'), ('dense',), ())
    """
    return {"auto": (), "sparse": SPARSE}.get(target, (target,))


def _candidates(
    layer: Dense, target: str, precisions: Sequence[str]
) -> tuple[dict[str, Sequence[Callable[[Dense], nn.Module]]], dict[str, str]]:
    """What can be tried, by name, and why the other forms are not."""
    makers: dict[str, Sequence[Callable[[Dense], nn.Module]]] = {}
    lost: dict[str, str] = {}
    for form, some in FORMS.items():
        if target == DENSE:
            lost[form] = "it was not asked for"
        elif layer.density == 1:
            lost[form] = "it has no zeros"
        elif form in forced(target):
            makers[form] = some
        elif target == "auto" and form in COMPRESSED and layer.density > SPARSEST:
            lost[form] = f"{1 - layer.density:.0%} zeros"
        elif target == "auto":
            makers[form] = some
    for precision in precisions:
        for form, some in REDUCED[precision].items():
            if target == "auto" or form in forced(target):
                makers[f"{form} {precision}"] = some
    return makers, lost


def _refused(gap: float, x: Tensor, exact: bool) -> str:
    most = _CLOSE.get(x.dtype, 2e-2) if exact else _BROKEN
    return "" if gap <= most else f"differs by {gap:.1g} of the largest output"


def _fastest(
    layer: Dense,
    modules: Mapping[str, nn.Module | None],
    changes: Mapping[nn.Module, float],
    times: Mapping[str, float],
    lost: Mapping[str, str],
    target: str,
) -> Trial:
    """The trial of the fastest form, which has that of the fastest exact one."""
    forms = {name: times[name] for name in times if name in (DENSE, *FORMS)}
    wanted = forms if target == "auto" else forced(target)
    some = {name: forms[name] for name in wanted if name in forms}
    chosen = min(some, key=some.__getitem__, default=DENSE)
    if target == "auto" and times[DENSE] < WIN * times[chosen]:
        chosen = DENSE
    ratios = {name: f"{times[DENSE] / ms:.2g}x" for name, ms in times.items()}

    def trial(name: str, exact: Trial | None) -> Trial:
        others = {n: r for n, r in ratios.items() if n not in (name, DENSE)}
        made = _trial(layer, name, times, {**lost, **others}, modules[name])
        if exact is None:
            return made
        form, _, precision = name.partition(" ")
        change = changes[made.module] if made.module is not None else 0.0
        return dataclasses.replace(
            made, chosen=form, precision=precision, change=change, exact=exact
        )

    exact = trial(chosen, None)
    reduced = {name: times[name] for name in times if name not in forms}
    best = min(reduced, key=reduced.__getitem__, default=chosen)
    return trial(best, exact) if times[chosen] >= WIN * times[best] else exact


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
    shape = tuple(layer.weight.shape)
    about = (layer.name, layer.op, shape, layer.density)
    return Trial(*about, chosen, times, lost, module)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
