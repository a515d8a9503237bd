"""Heads, neurons and channels that go, and what uses them fitted to those that stay.

One pass over the dense model gives what each group's going would do; another, on what
cut layers feed, fits the weights behind the units that stay. Columns and rows of those
that go are zero, so that `sparsefx.lower` and `ShrinkUnits` cut them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.masking.site import Site
from sparsefx.passes.find_units import find_units
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.passes.units.unit_map import UnitGroup
from sparsefx.pruning.dense_model import DenseModel, at_rest
from sparsefx.pruning.eliminate import Columns, eliminate, refitted
from sparsefx.pruning.fit import LayerFit
from sparsefx.pruning.measure_curves import Trial
from sparsefx.pruning.products import Form, Product
from sparsefx.pruning.quadratic import Quadratic
from sparsefx.pruning.repeated_uses import repeated_uses
from sparsefx.pruning.together import Visit, run_together
from sparsefx.pruning.unit_budget import UnitCurve, units_to_drop

_TRIED = 0.5  # the share of units with which a group alone is tried
_MOST = 10.0  # a factor from trying a group is no larger, and no smaller than 1 / that


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What became of the units.

    Attributes:
        units: by group, bool, True is kept.
        kept: by weight, bool, what no unit that went owned.
    """

    units: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


def cut_units(dense: DenseModel, sites: Sequence[Site], share: float) -> Cut:
    """Zeroes units of a model and fits the weights behind them.

    Args:
        dense: the model, which is changed, and the data.
        sites: its weights that may be pruned; units stay whose weights are not there.
        share: of the MACs that units own, to keep, in (0, 1].

    Raises:
        CaptureError: the model is not one graph.
        MaskError: it has no units that can go.
        BudgetError: the share is too small.
    """
    model, data = dense.model, dense.data
    groups = _groups(dense, sites)
    fit = dense.fit(sites, {}, weighed=True)
    behind = {name for group in groups for name in group.consumers}
    weights = {name: fit.weight(name) for name in fit.sites if name in behind}
    with torch.no_grad(), at_rest(model):
        many = repeated_uses(model, data.calls, weights)

        def run(visit: Visit) -> set[str]:
            return run_together(
                model, data.calls, weights, lambda n, f: visit(n, many.get(n, f))
            )

        curves = _Curves(fit, groups)
        run(curves)
        trial = Trial(model, data, fit.options.damage)
        found = [curves.of(group, trial) for group in groups if curves.knows(group)]
        gone = units_to_drop(found, sites, "macs", share)
        own = [curve.group for curve in found]
        run(_Refit(fit, own, gone))
        kept = _zeroed(model, own, gone)
    return Cut({name: ~units for name, units in gone.items()}, kept)


def _groups(dense: DenseModel, sites: Sequence[Site]) -> list[UnitGroup]:
    model, found = dense.model, dense.found
    if not found.whole:
        reason = next(iter(found.reasons.values()), "")
        raise CaptureError(
            f"units need the whole model as one graph; this {type(model).__name__} is "
            f"not ({reason}); leave unit_density at 1"
        )
    parts = [part.module(model) for _, part in found.programs[""].parts()]
    maps = [find_units(SplitAttention()(part)) for part in parts]
    own = {site.name: site for site in sites}
    large = {name for name, p in model.named_parameters() if p.ndim > 1}
    groups = [
        group
        for group in maps[-1].groups.values()
        if all(group.name in units.groups for units in maps)
        and own.keys() >= large.intersection((*group.producers, *group.consumers))
    ]
    if not groups:
        why = "; ".join(f"{n}: {r}" for n, r in list(maps[-1].refused.items())[:3])
        raise MaskError(
            f"{type(model).__name__} has no units whose weights may all be pruned "
            f"({why or 'none were found'}); leave unit_density at 1"
        )
    return groups


class _Curves:
    """Is shown the inputs of what uses units."""

    def __init__(self, fit: LayerFit, groups: Sequence[UnitGroup]) -> None:
        self.fit, self.groups = fit, groups
        self.layers: dict[str, tuple[Quadratic, Form]] = {}

    def __call__(self, name: str, found: Sequence[tuple[int, Product]]) -> None:
        self.layers[name] = self.fit.layer(name, found)

    def knows(self, group: UnitGroup) -> bool:
        """Whether all that uses the units has been seen, as one product each."""
        found = [self.layers.get(name) for name in group.consumers]
        return all(one is not None and one[1].groups == 1 for one in found)

    def of(self, group: UnitGroup, trial: Trial) -> UnitCurve:
        """What a group's going does, stretched to what half of it does alone."""
        products = []
        for name in group.consumers:
            layer, form = self.layers[name]
            importance = self.fit.importance.get(name)
            scale = 0.5 if importance is None else float(importance.mean()) / 2
            target, moments = layer.target[0] * scale**0.5, layer.inputs.matrix()[0]
            products.append(Columns(target, moments, _owners(group, name, form)))
        order, losses = eliminate(products, group.size)
        count = int(_TRIED * group.size)
        if count and losses[count] > 0:
            gone = torch.zeros(group.size, dtype=torch.bool)
            gone[order[:count]] = True
            weights = {
                name: _behind(self.layers[name], ~_of(gone, product.owner))
                for name, product in zip(group.consumers, products, strict=True)
            }
            factor = trial(weights) / float(losses[count])
            losses = losses * min(max(factor, 1 / _MOST), _MOST)
        return UnitCurve(group, order, losses)


class _Refit:
    """Fits what is behind units that go, on the inputs that it is shown."""

    def __init__(
        self, fit: LayerFit, groups: Sequence[UnitGroup], gone: Mapping[str, Tensor]
    ) -> None:
        self.fit, self.groups, self.gone = fit, groups, gone

    def __call__(self, name: str, found: Sequence[tuple[int, Product]]) -> None:
        layer, form = self.fit.layer(name, found)
        kept = torch.ones(layer.target.shape[-1], dtype=torch.bool)
        for group in self.groups:
            if name in group.consumers:
                kept &= ~_of(self.gone[group.name], _owners(group, name, form))
        if not kept.all():
            weight = self.fit.weight(name)
            weight.copy_(_behind((layer, form), kept))


def _behind(layer: tuple[Quadratic, Form], kept: Tensor) -> Tensor:
    """A weight of some columns alone, which does best what the whole one does."""
    quadratic, form = layer
    target, moments = quadratic.target[0], quadratic.inputs.matrix()[0]
    fitted = refitted(target, moments, kept.to(target.device))
    return form.back(quadratic.back(fitted[None]))


def _owners(group: UnitGroup, name: str, form: Form) -> Tensor:
    """The unit that computes each input of a product, -1 for none."""
    rows = group.row_dims.get(name, ())
    share = next(s for s in group.tensors if s.name == name and s.dim not in rows)
    along = [1] * len(form.shape)
    along[share.dim] = -1
    return form.matrices(share.owner.view(along).expand(form.shape))[0, 0]


def _of(units: Tensor, owner: Tensor) -> Tensor:
    """What some units own."""
    return torch.cat([units, units.new_zeros(1)])[owner]


def _zeroed(
    model: nn.Module, groups: Sequence[UnitGroup], gone: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Zeroes what units own that go; by weight, what is left."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept: dict[str, Tensor] = {}
    for group in groups:
        for share in group.tensors:
            value = parameters.get(share.name)
            if value is None:
                continue  # a buffer
            index = _of(gone[group.name], share.owner).nonzero().flatten()
            index = index.to(value.device)
            value.index_fill_(share.dim, index, 0.0)
            mask = kept.setdefault(share.name, torch.ones_like(value, dtype=torch.bool))
            mask.index_fill_(share.dim, index, False)
    return kept
