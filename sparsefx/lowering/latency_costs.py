"""Latency as a linear cost, true to what the lowered model takes as a whole.

Lines of single layers (`sparsefx.lowering.layer_latency`) know nothing of what layers
share: layouts, fused neighbours, cut units. So the model itself is cut to a few shares,
lowered as it will be, and timed; the lines' sum is stretched and shifted to go through
these times.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sparsefx.errors import BudgetError
from sparsefx.lowering.layer_latency import Latencies, can_compile, largest, measure
from sparsefx.lowering.layer_trial import EXACT
from sparsefx.lowering.lower_model import lower
from sparsefx.lowering.measurement_cache import cache_file, read, write
from sparsefx.masking.copies import duplicate
from sparsefx.masking.site import Site
from sparsefx.settings.budget import Budget
from sparsefx.tracing.offered_inputs import offered

WORTH = 0.03  # a layer that is not faster even at this density stays dense
_MATTERS = 0.01  # of the model's time, that the layer could save
_LEAST = 0.05  # of the way to breaking even: less is noise
_NEAR = 0.2  # a share this close to one that was timed is known well enough
_MOST = 3  # models lowered and timed
_ROUNDS = 15  # samples of each: a wrong one shifts every cost

_log = logging.getLogger("sparsefx")


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured, as costs.

    Attributes:
        sites: the masked weights, with the cost ``latency_ms``.
        dense: maskable weights that are not masked, with that cost.
        fixed: milliseconds that no mask can save.
        latencies: of the single layers and of the dense model.
    """

    sites: tuple[Site, ...]
    dense: tuple[Site, ...]
    fixed: float
    latencies: Latencies


def timed(
    model: nn.Module,
    inputs: Any,
    budgets: Sequence[Budget],
    sites: Sequence[Site],
    dense: Sequence[Site],
    *,
    every: bool = False,
    precision: str = EXACT,
) -> Timed | None:
    """Measures, if a budget is of ``latency_ms`` or a policy asks.

    Args:
        model: the dense model.
        inputs: example inputs, or None for what the model offers.
        budgets: those that were asked for.
        sites: the masked weights.
        dense: maskable weights that are not masked.
        every: let all layers be sparse that can gain, and measure in any case.
        precision: what the model will be lowered to, dense layers too.

    Returns:
        None where nothing asks.

    Raises:
        BudgetError: there are no inputs, or the budget is out of reach.
    """
    asked = [budget for budget in budgets if budget.cost == "latency_ms"]
    if not asked and not every:
        return None
    call = inputs[0] if isinstance(inputs, list) else inputs
    call = offered(model) if call is None else call
    if call is None:
        raise BudgetError(
            "latency_ms is measured, and needs example_inputs; give "
            "example_inputs=(x,) of the shape that counts"
        )
    found = measure(model, call, sites, precision)
    if precision != EXACT:
        share = lowered_share(model, call, found, (), 1.0)
        found = replace(found, total=found.total * share)
    limit = asked[0].limit(found.total) if asked else found.total
    chosen = worthwhile(sites, found)
    if asked and not every:
        chosen = fewest(sites, found, limit)
    fixed, scale = sum_of_lines(sites, found, chosen)[0], 1.0
    if asked and chosen and limit < found.total:
        fixed, scale = stretched(model, call, sites, found, chosen, limit)
        least = fixed + _LEAST * scale * sum_of_lines(sites, found, chosen)[1]
        if least > limit and chosen < (all_ := worthwhile(sites, found)):
            chosen = all_
            fixed, scale = stretched(model, call, sites, found, chosen, limit)
    if asked and limit <= fixed:
        raise BudgetError(
            f"budget {limit:.4g} ms is not above the {fixed:.4g} ms that the lowered "
            f"model takes here with nothing kept; the dense model takes "
            f"{found.total:.4g} ms; raise budget to between them\n\n{found}"
        )
    import sympy  # slow to import

    free = {"latency_ms": sympy.Float(0)}
    return Timed(
        tuple(_priced(site, found, chosen, scale) for site in sites),
        tuple(replace(site, costs={**site.costs, **free}) for site in dense),
        fixed,
        found,
    )


def worthwhile(sites: Sequence[Site], found: Latencies) -> set[str]:
    """The layers that are faster sparse at a density worth training to, and matter."""
    return {
        site.name
        for site in sites
        if (line := found.lines.get(site.name)) is not None
        and line.even >= max(WORTH, site.min_density)
        and line.dense - line.fixed >= _MATTERS * found.total
        and site.granularity.kind != "n_of_m"
    }


def fewest(sites: Sequence[Site], found: Latencies, limit: float) -> set[str]:
    """The layers that save most, until ``limit`` is within reach with half to spare.

    Each is taken at half the density at which it breaks even.
    """
    gains = {}
    for name in worthwhile(sites, found):
        line = found.lines[name]
        gains[name] = line.dense - line.fixed - 0.5 * line.slope * line.even
    chosen: set[str] = set()
    expected = found.total
    for name in sorted(gains, key=lambda name: (-gains[name], name)):
        if chosen and expected <= limit:
            break
        chosen.add(name)
        expected -= gains[name]
    return chosen


def sum_of_lines(
    sites: Sequence[Site], found: Latencies, chosen: Collection[str]
) -> tuple[float, float]:
    """What the model takes with nothing kept in the chosen layers, and what more
    if all keep what they may, by the lines alone."""
    lines = {s.name: found.lines[s.name] for s in sites if s.name in chosen}
    fixed = found.total + sum(x.fixed - x.dense for x in lines.values())
    spread = sum(x.slope * _most(s, found) for s in sites
                 if (x := lines.get(s.name)) is not None)  # fmt: skip
    return max(fixed, 0.0), spread


def through(
    time_of: Callable[[float], float], fixed: float, spread: float, limit: float
) -> tuple[float, float]:
    """The straight line of a model's times over the share of what layers may keep.

    Args:
        time_of: measures the model at a share in (0, 1].
        fixed: what the lines of single layers say it takes at share 0.
        spread: what they say it takes more at share 1.
        limit: the time around which the line must be true.

    Returns:
        What it takes at share 0, and the slope over ``spread``.

    Example:
        >>> fixed, scale = through(lambda share: 1 + 4 * share, 3.0, 2.0, 2.5)
        >>> round(fixed, 9), round(scale, 9)
        (1.0, 2.0)
    """
    share = min(max((limit - fixed) / spread, _LEAST), 1.0)
    points = [(share, time_of(share))]
    share = share / 2 if points[0][1] > limit or share > 0.5 else share * 2
    points.append((share, time_of(share)))
    while True:
        # the two times nearest the limit, one on each side where there are such
        points.sort(key=lambda point: abs(point[1] - limit))
        (s, t), (r, u) = points[0], points[1]
        slope = (t - u) / (s - r)
        if slope <= 0:  # noise: the slope that the layers have
            slope = spread
        start = t - slope * s
        wanted = min(max((limit - start) / slope, _LEAST), 1.0)
        near = min(abs(wanted - s) for s, _ in points) <= _NEAR * wanted
        if near or len(points) == _MOST:
            return start, slope / spread
        points.append((wanted, time_of(wanted)))


def stretched(
    model: nn.Module,
    inputs: Any,
    sites: Sequence[Site],
    found: Latencies,
    chosen: Collection[str],
    limit: float,
) -> tuple[float, float]:
    """What the lowered model takes with nothing kept in the chosen layers, and what
    the slopes of their lines are multiplied by, true near ``limit`` milliseconds."""
    fixed, spread = sum_of_lines(sites, found, chosen)
    if spread <= 0:
        return fixed, 1.0
    picked = [site for site in sites if site.name in chosen]

    whole = 1.0  # what the dense model takes over what it takes in that precision
    if found.precision != EXACT:
        whole = lowered_share(model, inputs, found, (), 1.0)

    def time_of(share: float) -> float:
        return found.total / whole * lowered_share(model, inputs, found, picked, share)

    return through(time_of, fixed, spread, limit)


@torch.no_grad()
def lowered_share(
    model: nn.Module,
    inputs: Any,
    found: Latencies,
    chosen: Sequence[Site],
    share: float,
) -> float:
    """Time of the model, cut and lowered, over that of the dense model as it is.

    Every chosen layer keeps its largest weights, ``share`` of what it may keep.
    """
    densities = {site.name: share * _most(site, found) for site in chosen}
    depends = [
        (key, f"{densities.get(name, 1.0):.3f}") for name, key in found.keys.items()
    ]
    size = sum(1 for _ in model.modules())
    text = repr((type(model).__name__, size, depends, found.precision))
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_file()
    known = read(path)
    if key not in known.shares:
        _log.info("timing the lowered model at %.0f %% of its range", 100 * share)
        cut = duplicate(model)
        for site in chosen:
            weight = cut.get_parameter(site.name)
            weight.mul_(largest(weight, densities[site.name], site))
        device = next(cut.parameters()).device
        # how much masks that nobody has trained change an output says nothing
        bound = None if found.precision == EXACT else math.inf
        fast = lower(
            cut,
            inputs,
            compile=can_compile(device),
            rounds=_ROUNDS,
            precision=found.precision,
            tolerance=bound,
        )
        known.shares[key] = 1 / fast.report.gain
        write(path, known)
    return known.shares[key]


def _most(site: Site, found: Latencies) -> float:
    """The density up to which a layer may keep: where it breaks even."""
    line = found.lines[site.name]
    return max(min(site.max_density, line.even), site.min_density)


def _priced(
    site: Site, found: Latencies, chosen: Collection[str], scale: float
) -> Site:
    import sympy

    slope, most = 0.0, site.max_density
    if site.name in chosen:
        slope = max(scale * found.lines[site.name].slope, 1e-9) / site.numel
        most = _most(site, found)
    costs = {**site.costs, "latency_ms": sympy.Float(slope)}
    return replace(site, costs=costs, max_density=most)
