"""Ramanujan-graph analysis of a model's masks, now and over training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.state_keys import CHILD
from sparsefx.reports.mask_spectrum import Spectrum, spectrum
from sparsefx.reports.spectral_svg import history_svg
from sparsefx.reports.text_table import percent, shape_text, text_table
from sparsefx.training.live_model import masks, sites

# The quantities that a history follows, with the words for its pictures.
QUANTITIES: Mapping[str, tuple[str, Callable[[Spectrum], float]]] = {
    "ramanujan_gap": ("Ramanujan gap", lambda s: s.ramanujan_gap),
    "imdb": ("Ramanujan gap, iterated (IMDB)", lambda s: s.iclr23.ramanujan_gap),
    "weighted_gap": ("weighted spectral gap", lambda s: s.weighted_gap),
    "imsg": ("weighted spectral gap, iterated (IMSG)", lambda s: s.iclr23.weighted_gap),
    "random_coefficient": (
        "normalised random coefficient",
        lambda s: s.iclr23.random_coefficient,
    ),
}


@dataclass(frozen=True, slots=True)
class SpectralReport:
    """The spectrum of every mask; ``print`` shows it as a table.

    Attributes:
        layers: one `Spectrum` a weight, in the model's order.

    Example:
        >>> found = spectral_report(nn.Linear(8, 8))
        >>> [layer.name for layer in found.layers]
        ['weight']
    """

    layers: tuple[Spectrum, ...]

    def __getitem__(self, name: str) -> Spectrum:
        """The spectrum of one weight, by its name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers[:8])
        raise MaskError(f"{name!r} is no masked weight; these are {known}")

    def means(self) -> dict[str, float]:
        """Each quantity of the whole network: the mean over the layers that have it.

        Layers count alike, whatever their size; NaN where no layer has a quantity.

        Example:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            >>> for layer in net:
            ...     _ = layer.weight.data.copy_(torch.ones(4, 4) - torch.eye(4))
            >>> round(spectral_report(net).means()["ramanujan_gap"], 3)
            1.828
        """
        found = {}
        for quantity, (_, read) in QUANTITIES.items():
            values = [v for v in map(read, self.layers) if math.isfinite(v)]
            found[quantity] = math.fsum(values) / len(values) if values else math.nan
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; what is not defined is None."""
        rows = [{**asdict(layer), "density": layer.density} for layer in self.layers]
        found = {"layers": rows, "means": self.means()}
        plain: dict[str, Any] = _plain(found)
        return plain

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), "utf-8")

    def __str__(self) -> str:
        header = (
            "layer",
            "shape",
            "density",
            "degrees",
            "Ramanujan gap",
            "IMDB",
            "weighted gap",
            "IMSG",
            "random",
        )
        rows = [
            (
                layer.name,
                shape_text(layer.shape),
                percent(layer.density),
                f"{layer.left_degree:.1f} {layer.right_degree:.1f}",
                *(_number(read(layer)) for _, read in QUANTITIES.values()),
            )
            for layer in self.layers
        ]
        rows.append(("mean", "", "", "", *map(_number, self.means().values())))
        return text_table(header, rows, right=tuple(range(2, len(header))))


def spectral_report(module: nn.Module) -> SpectralReport:
    """How well connected the masks are: the spectra of their bipartite graphs.

    See `sparsefx.reports.mask_spectrum` for the quantities and their sources. Signs are
    kept: a negative Ramanujan gap says that a mask falls apart into weakly joined
        parts.

    Args:
        module: what `sparsefx.transform` returned (its hard masks are read), or any
            other module (the zeros of its weights of two or more dimensions are the
            mask, as `sparsefx.finalize` leaves them).

    Raises:
        MaskError: the module has no weight of two or more dimensions.

    Example:
        >>> import torch
        >>> net = nn.Linear(4, 4, bias=False)
        >>> _ = net.weight.data.copy_(torch.ones(4, 4) - torch.eye(4))
        >>> layer = spectral_report(net)["weight"]
        >>> round(layer.ramanujan_gap, 3), round(layer.density, 3)
        (1.828, 0.75)
    """
    pairs = _masks_of(module)
    if not pairs:
        raise MaskError(
            f"{type(module).__name__} has no weight of two or more dimensions, so no "
            "mask to analyse; give what sparsefx.transform or finalize returned"
        )
    found = tuple(spectrum(mask, weight, name) for name, mask, weight in pairs)
    return SpectralReport(found)


def _masks_of(module: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    if CHILD not in unwrapped(module)._modules:
        return [
            (name, weight.detach() != 0, weight.detach())
            for name, weight in module.named_parameters()
            if weight.ndim >= 2 and weight.is_floating_point()
        ]
    live = {site.name: site.weight for site in sites(module)}
    if live and not any(weight is not None for weight in live.values()):
        raise MaskError(
            "the masks of this model are of whole units, and say nothing of how "
            "weights are connected; give what sparsefx.finalize makes of it"
        )
    return [
        (name, mask, weight.detach())
        for name, mask in masks(module).items()
        if mask.ndim >= 2 and (weight := live[name]) is not None
    ]


class SpectralHistory:
    """Notes a model's spectra while it trains.

    Example:
        >>> net = nn.Linear(8, 8)
        >>> history = SpectralHistory()
        >>> for step in (0, 100):
        ...     _ = history.record(net, step)
        >>> [step for step, _ in history.reports]
        [0, 100]
        >>> history.series("weight", "weighted_gap")[0] > 0
        True
    """

    def __init__(self) -> None:  # noqa: D107
        self.reports: list[tuple[int, SpectralReport]] = []

    def record(self, module: nn.Module, step: int) -> SpectralReport:
        """Analyses the module now and keeps the report under a step."""
        report = spectral_report(module)
        self.reports.append((step, report))
        return report

    def series(self, layer: str, quantity: str) -> list[float]:
        """One quantity of one layer, a value a record.

        Args:
            layer: the weight's name.
            quantity: one of ``QUANTITIES``.

        Raises:
            MaskError: the layer or the quantity is not known.
        """
        if quantity not in QUANTITIES:
            raise MaskError(
                f"quantity {quantity!r} is not known; allowed: {', '.join(QUANTITIES)}"
            )
        read = QUANTITIES[quantity][1]
        return [read(report[layer]) for _, report in self.reports]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, by step."""
        return {"steps": [{"step": s, **r.to_dict()} for s, r in self.reports]}

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), "utf-8")

    def to_svg(self, path: str | Path) -> None:
        """Draws every quantity over the steps: a line a layer, and their mean.

        Raises:
            MaskError: nothing has been recorded.
        """
        if not self.reports:
            raise MaskError("there is no history yet; call record(module, step) first")
        steps = [step for step, _ in self.reports]
        names = [layer.name for layer in self.reports[0][1].layers]
        panels = {
            title: [self.series(name, key) for name in names]
            for key, (title, _) in QUANTITIES.items()
        }
        Path(path).write_text(history_svg(steps, panels), "utf-8")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """Without NaN and tuples, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
