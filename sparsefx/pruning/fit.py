"""Prunes the layers of a running model one after another, on what pruned ones feed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.masking.site import Site
from sparsefx.pruning.certificate import least_share
from sparsefx.pruning.choice import Choice
from sparsefx.pruning.damage import Damage
from sparsefx.pruning.methods import Method
from sparsefx.pruning.moments import moments_of
from sparsefx.pruning.products import Form, Product
from sparsefx.pruning.quadratic import Inputs, Quadratic

_PATCHES = 8192  # rows of a convolution's inputs, or as many as it has inputs


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of one weight.

    Attributes:
        method: how it was pruned.
        error: mean squared error of its outputs over their mean square, on the rows it
            was fitted on, in [0, 1] or a little above; None where no inputs were seen.
        seconds: it took, by the clock.
        least: of this error (with the ridge), the share that any weights of as many
            entries have at least, in [0, 1]; 0 says nothing, None was not asked.
    """

    method: str
    error: float | None
    seconds: float
    least: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How layers are fitted.

    Attributes:
        method: of every layer whose inputs are seen.
        damp: what is added to the diagonal of the moments, as a share of its mean.
        memory: bytes that the moments of a layer may take.
        seed: of the draw of a convolution's patches.
        damage: what a change of the outputs costs.
        certify: how much better a layer could be is said.
    """

    method: Method
    damp: float
    memory: float
    seed: int
    damage: Damage
    certify: bool = False


@dataclass(slots=True)
class LayerFit:
    """Is shown the inputs of each weight, and writes the pruned one.

    Attributes:
        sites: by name.
        counts: entries to keep, by name.
        options: how.
        valid: of each call, the tokens that count.
        importance: of outputs, (groups, outputs) by name, where it is known.
        masks: found so far, by name.
        fitted: what became of the weights, by name.
        allowed: of some, what may be kept, bool; the others are zero already.
    """

    sites: Mapping[str, Site]
    counts: Mapping[str, int]
    options: Options
    valid: Sequence[Tensor | None]
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    fitted: dict[str, Fitted] = field(default_factory=dict)
    allowed: Mapping[str, Tensor] = field(default_factory=dict)
    _last: tuple[list[object], Inputs, object] | None = None

    def __call__(self, name: str, found: Sequence[tuple[int, Product]]) -> None:
        """Prunes a weight on the products that calls are about to take with it."""
        begin, site, method = time.perf_counter(), self.sites[name], self.options.method
        weight, (layer, form) = self.weight(name), self.layer(name, found)
        allowed = self.allowed.get(name, torch.ones_like(weight, dtype=torch.bool))
        choose = Choice(site, form, self.counts[name], allowed)
        scaled, mask = layer.target, form.matrices(allowed)
        whole = int(allowed.sum()) if site.groups is None else site.units
        if self.counts[name] < whole:
            scaled, mask = method.solve(layer, choose)
            kept = form.back(layer.back(scaled)) if method.fits else weight
            weight.copy_(torch.where(form.back(mask), kept, 0.0))
        self.masks[name] = form.back(mask).clone()
        least = least_share(layer, choose, scaled) if self.options.certify else None
        taken = time.perf_counter() - begin
        self.fitted[name] = Fitted(method.name, layer.error(scaled), taken, least)

    def layer(
        self, name: str, found: Sequence[tuple[int, Product]]
    ) -> tuple[Quadratic, Form]:
        """A weight with the moments of its inputs, and how it reads as matrices."""
        weight, form = self.weight(name), found[0][1].form
        work = torch.float64 if weight.dtype == torch.float64 else torch.float32
        matrices = form.matrices(weight.detach()).to(work)
        inputs = self.inputs(self.sites[name], found, work)
        return Quadratic.of(matrices, inputs, self.importance.get(name)), form

    def weight(self, name: str) -> Tensor:
        """The live weight of a site."""
        return _weight(self.sites[name])

    def unseen(self, name: str) -> None:
        """Prunes a weight by magnitude, where no product with its inputs is seen."""
        begin, site = time.perf_counter(), self.sites[name]
        weight = self.weight(name)
        form = Form(tuple(weight.shape))
        choose = Choice(site, form, self.counts[name])
        mask = form.back(choose(form.matrices(weight.detach()).float().square()))
        weight.copy_(torch.where(mask, weight, 0.0))
        self.masks[name] = mask.clone()
        taken = time.perf_counter() - begin
        self.fitted[name] = Fitted("magnitude", None, taken)

    def inputs(
        self, site: Site, found: Sequence[tuple[int, Product]], work: torch.dtype
    ) -> Inputs:
        """The moments of the inputs; those of the last weight if it shares them.

        Raises:
            MaskError: an input is NaN or infinite.
        """
        keys: list[object] = [product.key for _, product in found]
        if self._last is not None and self._last[0] == keys:
            return self._last[1]
        self._last = None
        first, options = found[0][1], self.options
        count = sum(product.count for _, product in found)
        rows = self._rows(site, found, work)
        outputs = first.form.matrices(_weight(site)).shape[1]
        moments = moments_of(rows, count, outputs, options.memory)
        inputs = Inputs.of(moments, options.damp)
        # the products stay too: another input must not lie where these did
        self._last = keys, inputs, found
        return inputs

    def _rows(
        self, site: Site, found: Sequence[tuple[int, Product]], work: torch.dtype
    ) -> Iterator[Tensor]:
        first = found[0][1]
        inputs = first.form.matrices(_weight(site)).shape[-1]
        most = -(-max(_PATCHES, inputs) // len(found))
        for number, product in found:
            rows = product.rows(self.valid[number], most, self.options.seed + number)
            if not bool(torch.isfinite(rows).all()):
                raise MaskError(
                    f"{site.module or site.name} gets NaN or infinite inputs from "
                    f"batch {number}; give other batches, or a model that can take them"
                )
            yield rows.to(work)


def _weight(site: Site) -> Tensor:
    assert site.weight is not None, "sites of a model have their weights"
    return site.weight
