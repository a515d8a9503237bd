"""A model as it was given, for every budget, and what has been measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from sparsefx.masking.copies import duplicate
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, spending
from sparsefx.policies.error_curves import ErrorCurves
from sparsefx.policies.policy_function import Context
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.pruning.calibration import Calibration
from sparsefx.pruning.fit import LayerFit, Options
from sparsefx.pruning.importance import importances
from sparsefx.pruning.measure_curves import measure_curves
from sparsefx.tracing.capture import capture
from sparsefx.tracing.preserve import in_eval, preserved


def at_rest(*models: nn.Module) -> ExitStack:
    """Where models run in eval mode and are left without a trace."""
    stack = ExitStack()
    for model in models:
        stack.enter_context(preserved(model))
        stack.enter_context(in_eval(model))
    return stack


class DenseModel:
    """The model as it was given, for every budget, and what is known of it.

    Attributes:
        model: a copy, all of whose weights need gradients: frozen ones are pruned like
            others.
        found: its graphs.
        data: what to measure and fit on.
        options: how.
    """

    def __init__(  # noqa: D107
        self, model: nn.Module, data: Calibration, options: Options
    ) -> None:
        self.data, self.options = data, options
        self.model = duplicate(model)
        self._learns = {n: p.requires_grad for n, p in self.model.named_parameters()}
        for value in self.model.parameters():
            if value.is_floating_point():
                value.requires_grad_(True)
        self._known: dict[tuple[str, ...], dict[str, Tensor]] = {}
        args, kwargs = data.calls[0]
        self.found = capture(self.model, [args or kwargs], verify=False)

    def fit(
        self, sites: Sequence[Site], counts: Mapping[str, int], weighed: bool
    ) -> LayerFit:
        """What prunes these sites; outputs have importances if they are weighed."""
        importance: Mapping[str, Tensor] = {}
        if weighed:
            importance = self._importance(tuple(site.name for site in sites))
        named = {site.name: site for site in sites}
        return LayerFit(named, counts, self.options, self.data.valid, importance)

    def copy(self) -> nn.Module:
        """A model to prune."""
        found = duplicate(self.model)
        for name, value in found.named_parameters():
            value.requires_grad_(self._learns[name])
        return found

    def _importance(self, names: tuple[str, ...]) -> Mapping[str, Tensor]:
        if names not in self._known:
            weights = {name: self.model.get_parameter(name) for name in names}
            data, options = self.data, self.options
            with at_rest(self.model):
                self._known[names] = importances(
                    self.model,
                    data.calls,
                    data.valid,
                    weights,
                    options.seed,
                    options.damage,
                )
        return self._known[names]


class MeasuredCurves:
    """The policy function ``"curves"`` of `sparsefx.prune`; it measures once."""

    def __init__(self, dense: DenseModel) -> None:  # noqa: D107
        self.dense = dense
        self.found: ErrorCurves | None = None
        self._sites: Sequence[Site] = ()

    def prepare(
        self, model: nn.Module, sites: Sequence[Site], context: Context
    ) -> MeasuredCurves:
        """Remembers the sites to measure."""
        self._sites = sites
        return self

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "macs",
        budgets: Mapping[str, float] | None = None,
    ) -> Allocation:
        """The densities of least damage; see `ErrorCurves`.

        Nothing is measured where budgets pay for everything.
        """
        every = {cost: budget, **(budgets or {})}
        most = [density_bounds(site)[1] for site in sites]
        kept = [share * site.numel for share, site in zip(most, sites, strict=True)]
        if all(spending(sites, kept, b, n)[0] <= b for n, b in every.items()):
            return planned(most, sites, budget, cost, budgets)
        if self.found is None:
            fit, model = self.dense.fit(self._sites, {}, weighed=True), self.dense.model
            with torch.no_grad(), at_rest(model):
                self.found = measure_curves(model, self.dense.data, fit)
        return self.found(sites, budget, cost, budgets)
