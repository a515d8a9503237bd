"""A pretrained model under a budget, with a little unlabelled data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.masking.copies import duplicate
from sparsefx.masking.site import Site
from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.policy_function import PolicyFunction
from sparsefx.pruning.calibration import Calibration, Valid, calibration
from sparsefx.pruning.cut_units import Cut, cut_units
from sparsefx.pruning.damage import BY_KIND, Loss, by_loss
from sparsefx.pruning.dense_model import DenseModel, MeasuredCurves, at_rest
from sparsefx.pruning.distil import distil
from sparsefx.pruning.fit import LayerFit, Options
from sparsefx.pruning.methods import METHODS, Method
from sparsefx.pruning.products import Product
from sparsefx.pruning.pruned import Pruned, PruneReport
from sparsefx.pruning.repeated_uses import repeated_uses
from sparsefx.pruning.together import run_together
from sparsefx.reports.progress import progress
from sparsefx.reports.report_rows import LayerReport
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.rules import refuse, unknown
from sparsefx.training.build import plan_of
from sparsefx.training.current_report import report_of
from sparsefx.training.layer_rows import layer_rows
from sparsefx.training.life import Life
from sparsefx.training.plan import Plan
from sparsefx.training.whole_graph import Start

_GAP, _LITTLE = 3.0, 0.01  # held-out changes that are worth a word
_LOOKS = 4  # calibration batches that outputs are compared on, about
# Fields of a policy that speak of what is kept, not of how it is trained.
SETTINGS = (
    "cost budget_of storage costs sizes granularity round_to fallback include exclude "
    "layers densities min_density max_density unit_density keep_units "
    "normalize"
).split()


def prune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    budget: Any = None,
    method: str | Method = "admm",
    allocation: str | PolicyFunction = "curves",
    loss: Loss | None = None,
    valid: Valid = None,
    held_out: float = 0.2,
    damp: float = 0.01,
    distill_steps: int = 0,
    memory: str = "2 GB",
    certify: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Pruned:
    """Prunes a pretrained model to a budget, with a few unlabelled batches.

    Layers are pruned one after another, each on the inputs that the pruned layers
    before it give. A layer's weights ``U`` replace its dense ``W`` where that keeps its
    outputs best, ``minimise tr (U - W) H (U - W)'`` over ``U`` with so many weights,
    where ``H`` are the second moments of its inputs.

    Args:
        model: any module, in any mode; it is left as it was. It runs in eval mode.
        batches: tensors, tuples of positional inputs or dicts of keyword inputs; a
            loader works. Costs are those of the first.
        budget: what may be kept, as for `sparsefx.transform`: a fraction of the dense
            MACs, ``{"bytes": "5 MB"}``, several at once. By default half of the MACs,
            or all of them where ``unit_density`` is given.
        method: ``"magnitude"`` and ``"activation"`` keep weights as they are (the
            largest; the largest times root mean square of the input), ``"obs"`` and
            ``"admm"`` fit those that they keep; or a `Method`.
        allocation: who decides how much of each layer is kept: ``"curves"`` measures
            what pruning each layer does to the outputs and keeps the sum least
            (`sparsefx.policies.error_curves`); else a policy's name or function.
        loss: maps the output and the dense model's output to a number, smooth and least
            where they are equal: what layers are worth, what distillation lessens, and
            what is reported. By default the outputs' own kind says it
            (`sparsefx.training.divergence`), and `valid`.
        valid: which tokens count: a keyword input's name, or a function of a batch that
            returns bools of (batch, tokens); ``attention_mask`` where there is one.
        held_out: share of the batches that nothing is fitted on, to judge by.
        damp: what is added to the moments' diagonal, as a share of its mean; above 0.
        distill_steps: so many steps of training follow, on single batches, in which
            the dense model teaches the pruned one; masks stay as they are.
        memory: what the moments of a layer may take, and their eigenvectors as much
            again; above it, the moments' root is used.
        certify: the report also says how much better any other weights of as many
            entries could be, layer by layer, where a bound tells
            (`sparsefx.pruning.certificate`): exactly for depthwise kernels.
        seed: of what is drawn: which batches are held out, which patches of a
            convolution are seen.
        settings: fields of `Policy` that say what is kept: ``granularity``, ``layers``,
            ``include``, ``exclude``, ``min_density`` and others. ``unit_density`` is
            the share to keep of the MACs that heads, neurons and channels own: others
            go first, as a whole, what uses them is fitted to those that stay, and
            `sparsefx.lower` cuts them out.

    Raises:
        MaskError: there are no batches, they differ in structure, a layer gets NaN, or
            the model is transformed already.
        CaptureError: the model does not run on the first batch.
        PolicyError, BudgetError: as for `sparsefx.transform`.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> pruned = prune(net, [torch.randn(32, 8) for _ in range(4)], budget=0.5)
        >>> type(pruned.model), int(sum(m.sum() for m in pruned.masks.values()))
        (<class 'torch.nn.modules.container.Sequential'>, 96)
        >>> pruned.at(0.25).report.costs.budgets["macs"].met
        True
    """
    _check(model, damp, distill_steps)
    if loss is not None and not callable(loss):
        refuse("loss", loss, "a function of the output and the dense model's output")
    for name in settings.keys() - set(SETTINGS):
        unknown("setting of prune", name, ("budget", *SETTINGS))
    if isinstance(method, str) and method not in METHODS:
        unknown("method", method, METHODS)
    chosen = METHODS[method] if isinstance(method, str) else method
    data = calibration(model, batches, valid, held_out, seed)
    damage = BY_KIND if loss is None else by_loss(loss)
    options = Options(
        method=chosen,
        damp=damp,
        memory=_bytes(memory),
        seed=seed,
        damage=damage,
        certify=certify,
    )
    dense = DenseModel(model, data, options)
    found = MeasuredCurves(dense) if allocation == "curves" else allocation
    base = {"name": "prune", "allocation": found, **settings}
    given, cut = dense.model, Cut()
    if settings.get("unit_density", 1.0) != 1.0:
        policy = load_policy({**base, "allocation": "uniform"}, budget=1.0)
        plan, _ = plan_of(Start(dense.found, policy))
        given = duplicate(dense.model)
        cut = cut_units(dense, plan.sites, policy.unit_density)
        budget = 1.0 if budget is None else budget
    job = _Job(dense, given, cut, data, options, base, distill_steps)
    return job(0.5 if budget is None else budget)


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything but the budget."""

    dense: DenseModel
    given: nn.Module
    cut: Cut
    data: Calibration
    options: Options
    settings: Mapping[str, Any]
    steps: int

    def __call__(self, budget: Any) -> Pruned:
        begin = time.perf_counter()
        policy = load_policy(self.settings, budget=budget)
        plan, _ = plan_of(Start(self.dense.found, policy))
        plan = replace(plan, sites=tuple(map(self._within, plan.sites)))
        twin, dense = self.dense.copy(), self.given
        with at_rest(twin, dense):
            fit = self._fit(twin, plan)
            if self.steps:
                distil(dense, twin, fit.masks, self.data, self.steps, self.options)
            change, held_out = self._changes(twin)
        if self.options.method.fits:
            least = 0.0 if self.options.damage.is_loss else _LITTLE
            _say_if_overfitted(change, held_out, least)
        counts = [int(fit.masks[site.name].sum()) for site in plan.sites]
        grains = [str(site.granularity) for site in plan.sites]

        def rows(costs: Sequence[str]) -> tuple[LayerReport, ...]:
            whole = [site.numel for site in plan.dense]
            return (
                *layer_rows(plan.sites, counts, costs, grains),
                *layer_rows(plan.dense, whole, costs, "dense"),
            )

        report = PruneReport(
            costs=report_of(plan, counts, rows),
            fitted=fit.fitted,
            change=change,
            held_out=held_out,
            by_loss=self.options.damage.is_loss,
            units={n: (int(u.sum()), len(u)) for n, u in self.cut.units.items()},
            seconds=time.perf_counter() - begin,
        )
        return Pruned(twin, fit.masks, self.cut.units, report, self)

    def _within(self, site: Site) -> Site:
        """A site of which no more is kept than its units leave."""
        kept = self.cut.kept.get(site.name)
        if kept is None or site.groups is not None:
            return site
        most = min(site.max_density, float(kept.double().mean()))
        return replace(site, min_density=min(site.min_density, most), max_density=most)

    @torch.no_grad()
    def _fit(self, twin: nn.Module, plan: Plan) -> LayerFit:
        weights = {s.name: twin.get_parameter(s.name) for s in plan.sites}
        sites = [replace(s, weight=weights[s.name]) for s in plan.sites]
        fit = self.dense.fit(sites, entries(plan), self.options.method.fits)
        fit.allowed = self.cut.kept
        calls = self.data.calls
        many = repeated_uses(twin, calls, weights)

        with progress("prune", len(weights)) as begin:

            def visit(name: str, found: Sequence[tuple[int, Product]]) -> None:
                begin(name)
                fit(name, many.get(name, found))

            left = run_together(twin, calls, weights, visit)
        blind = [name for name in fit.sites if name in left]
        for name in blind:
            fit.unseen(name)
        cut = [name for name in blind if fit.counts[name] < fit.sites[name].units]
        if cut and self.options.method.name != "magnitude":
            more = ", ..." * (len(cut) > 3)
            warnings.warn(
                f"no batch multiplies its rows with {', '.join(cut[:3])}{more} in a "
                "way that can be seen, so magnitudes alone decided there; give batches "
                "that run these layers, or exclude them",
                UserWarning,
                stacklevel=4,
            )
        return fit

    def _changes(self, twin: nn.Module) -> tuple[float, float | None]:
        data, dense, change_of = self.data, self.given, self.options.damage.mean
        every = max(len(data.calls) // _LOOKS, 1)
        change = change_of(dense, twin, data.calls[::every], data.valid[::every])
        if not data.held:
            return change, None
        return change, change_of(dense, twin, data.held, data.held_valid)


def _say_if_overfitted(change: float, held_out: float | None, least: float) -> None:
    if held_out is not None and held_out > max(_GAP * change, least):
        warnings.warn(
            f"outputs change by {held_out:.3g} on held-out batches and by {change:.3g} "
            "on those that weights were fitted on; give more batches, or more kinds of "
            "data, or raise damp",
            UserWarning,
            stacklevel=4,
        )


def entries(plan: Plan) -> dict[str, int]:
    """How many entries of each site the policy and the budgets leave."""
    weights, allowed = [_weight(site) for site in plan.sites], plan.allowed(1.0)
    found = plan.bounds(allowed, weights)
    if any(low < high for low, high in found):
        found = plan.settled(allowed, weights)
    return {site.name: low for site, (low, _) in zip(plan.sites, found, strict=True)}


def _check(model: object, damp: float, steps: int) -> None:
    if not isinstance(model, nn.Module):
        raise MaskError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    if any(isinstance(part, Life) for part in model.modules()):
        raise MaskError(
            f"this {type(model).__name__} is being trained sparse; prune what "
            "sparsefx.finalize returns"
        )
    if not damp > 0:
        refuse("damp", damp, "a share above 0")
    if not isinstance(steps, int) or steps < 0:
        refuse("distill_steps", steps, "a whole number of at least 0")


def _bytes(memory: str) -> float:
    (found,) = parse_budget({"bytes": memory})
    if not found.absolute:
        refuse("memory", memory, 'an amount such as "2 GB"')
    return found.amount


def _weight(site: Site) -> Tensor:
    assert site.weight is not None, "sites of a model have their weights"
    return site.weight
