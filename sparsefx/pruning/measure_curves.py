"""Error curves of all layers, from one pass over the dense model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsefx.masking.site import Site
from sparsefx.policies.error_curves import ErrorCurves
from sparsefx.pruning.admm import admm
from sparsefx.pruning.calibration import Calibration
from sparsefx.pruning.choice import Choice
from sparsefx.pruning.damage import Damage
from sparsefx.pruning.enumerated import Enumerated, can_enumerate
from sparsefx.pruning.fit import LayerFit
from sparsefx.pruning.products import Form, Product
from sparsefx.pruning.quadratic import Quadratic
from sparsefx.pruning.repeated_uses import repeated_uses
from sparsefx.pruning.together import run_together

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
_TRIED = 0.3  # the density at which one layer alone is tried
_OUTPUTS = 128  # so many of a layer without structure stand for all of them
_CALLS = 4  # on which one layer alone is tried
_STEPS = 5  # from one level to the next
_MOST = (
    10.0  # a factor from trying a layer is no larger, and no smaller than its inverse
)


@dataclass(slots=True)
class _Curves:
    """Follows every layer from dense to empty."""

    fit: LayerFit
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    tried: dict[str, tuple[Tensor, float]] = field(default_factory=dict)

    def __call__(self, name: str, found: Sequence[tuple[int, Product]]) -> None:
        layer, form = self.fit.layer(name, found)
        site = self.fit.sites[name]
        part = _Part.of(site, layer, form)
        importance = self.fit.importance.get(name)
        scale = 0.5 if importance is None else float(importance.mean()) / 2
        some = part.layer
        whole, least = (x.loss(torch.zeros_like(x.target)) for x in (layer, some))
        stretch = scale * whole / least if least > 0 else 0.0
        scaled, points, best = some.target, [(1.0, 0.0)], None
        if self.fit.options.method.fits and can_enumerate(some, part.choice(0)):
            best = Enumerated.of(some)
        for count in _counts(part.site):
            if best is not None:
                scaled = best.solve(count)[0].to(some.target)
            else:
                scaled = self._solved(some, part.choice(count), scaled)
            points.append((part.site.density(count), stretch * some.loss(scaled)))
            if name in self.tried or points[-1][0] > _TRIED:
                continue
            tried = scaled
            if some is not layer:  # some outputs give the shape, all of them the size
                choose = Choice(site, form, round(points[-1][0] * site.units))
                tried = self._solved(layer, choose, layer.target, 2 * _STEPS)
            weight = form.back(layer.back(tried)).to(self.fit.weight(name).dtype)
            self.tried[name] = weight, points[-1][1]
        self.points[name] = points[::-1]

    def _solved(
        self, layer: Quadratic, choose: Choice, start: Tensor, steps: int = _STEPS
    ) -> Tensor:
        method = self.fit.options.method
        if method.fits:
            return admm(layer, choose, steps, start)[0]
        return method.solve(layer, choose)[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some outputs of a layer, spread evenly: they stand for all of them."""

    site: Site
    layer: Quadratic
    form: Form

    @classmethod
    def of(cls, site: Site, layer: Quadratic, form: Form) -> _Part:
        outputs = layer.target.shape[1]
        alike = site.groups is None and form.groups == 1
        rows = slice(None, None, max(outputs // _OUTPUTS, 1) if alike else 1)
        if rows.step == 1:
            return cls(site, layer, form)
        target, roots = layer.target[:, rows].contiguous(), layer.roots[:, rows]
        count, shape = target.shape[1], site.shape
        shape = (shape[0], count) if form.flipped else (count, *shape[1:])
        some = Quadratic(target, layer.inputs, roots)
        return cls(replace(site, shape=shape), some, replace(form, shape=shape))

    def choice(self, count: int) -> Choice:
        return Choice(self.site, self.form, count)


def measure_curves(model: nn.Module, data: Calibration, fit: LayerFit) -> ErrorCurves:
    """What pruning each site alone to several densities does to the model's outputs.

    A layer's error is a quadratic in its outputs, weighted by their importances. At one
    density each layer is also pruned alone for real, on a few calls, and its curve is
    stretched to what that did. Weights whose inputs are not seen are tried so at every
    level.

    Args:
        model: the dense model, left as it was.
        data: what to measure on.
        fit: sites, importances and method; it is shown inputs and writes nothing.
    """
    weights = {name: fit.weight(name) for name in fit.sites}
    many = repeated_uses(model, data.calls, weights)
    curves = _Curves(fit)
    left = run_together(
        model, data.calls, weights, lambda n, found: curves(n, many.get(n, found))
    )
    trial = Trial(model, data, fit.options.damage)
    points = dict(curves.points)
    for name in left:
        rows = [(site_density, trial({name: w})) for site_density, w in _cut(fit, name)]
        points[name] = [*rows[::-1], (1.0, 0.0)]
    for name, (weight, predicted) in curves.tried.items():
        if predicted > 0:
            factor = trial({name: weight}) / predicted
            factor = min(max(factor, 1 / _MOST), _MOST)
            points[name] = [(x, factor * y) for x, y in points[name]]
    return ErrorCurves({name: _finer(rows) for name, rows in points.items()})


def _finer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points between those given: damage falls by a factor rather than by a sum."""
    found = list(points[:1])
    for (x, y), (end, damage) in pairwise(points):
        if y > 0 and damage > 0:
            for share in (0.25, 0.5, 0.75):
                middle = x + share * (end - x)
                found.append((middle, y ** (1 - share) * damage**share))
        found.append((end, damage))
    return found


class Trial:
    """The damage of some other weights, told from a few calls for all."""

    def __init__(  # noqa: D107
        self, model: nn.Module, data: Calibration, damage: Damage
    ) -> None:
        self.model, self.damage = model, damage
        chosen = range(0, len(data.calls), -(-len(data.calls) // _CALLS))
        self.share = len(chosen) / len(data.calls)
        self.calls = [
            (data.calls[i], data.valid[i], model(*data.calls[i][0], **data.calls[i][1]))
            for i in chosen
        ]

    def __call__(self, weights: Mapping[str, Tensor]) -> float:
        """The damage of all calls with these weights, by parameter name."""
        found = 0.0
        for call, valid, dense in self.calls:
            out = torch.func.functional_call(self.model, dict(weights), *call)
            found += float(self.damage.of(out, dense, valid))
        return found / self.share


def _counts(site: Site) -> list[int]:
    """Numbers of entries to try, falling, all of them left out."""
    units = site.units
    tried = {0, *(round(level * units) for level in LEVELS)} - {units}
    return sorted(tried, reverse=True)


def _cut(fit: LayerFit, name: str) -> Iterator[tuple[float, Tensor]]:
    """A weight with the largest entries kept, at each level."""
    site, weight = fit.sites[name], fit.weight(name).detach()
    form = Form(tuple(weight.shape))
    for count in _counts(site):
        energy = form.matrices(weight).float().square()
        mask = form.back(Choice(site, form, count)(energy))
        yield site.density(count), torch.where(mask, weight, 0.0)
