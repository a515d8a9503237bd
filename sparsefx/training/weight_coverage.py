"""Which weights are masked and where that is seen; what stays dense is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sparsefx.errors import MaskError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.passes.annotate_costs import NOT_MULTIPLIED
from sparsefx.passes.costs.cost_table import CostRow, CostTable
from sparsefx.policies.policy import Policy
from sparsefx.reports.report_rows import Coverage
from sparsefx.settings.granularity import Granularity
from sparsefx.settings.patterns import Selection, select
from sparsefx.tracing.capture import Capture

FROZEN = "frozen (requires_grad=False); include it to mask it"
LOOKED_UP = (
    "its gradients are sparse (sparse=True), those of a masked weight are dense; "
    "include it to mask it"
)
ADAPTER = "a part of an adapter (lora_*); include it to mask it"


def left_apart(model: nn.Module) -> dict[str, str]:
    """Weights that stay dense unless the user includes them, and why.

    Example:
        >>> left_apart(nn.ModuleDict({"lora_A": nn.Linear(2, 2, bias=False)}))
        {'lora_A.weight': 'a part of an adapter (lora_*); include it to mask it'}
    """
    parameters = dict(model.named_parameters())
    looked_up = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    }
    rows = {n: LOOKED_UP for n, p in parameters.items() if id(p) in looked_up}
    frozen = {n: FROZEN for n, p in parameters.items() if not p.requires_grad}
    adapters = {
        name: ADAPTER
        for name in parameters
        if any(part.startswith("lora_") for part in name.split("."))
    }
    return rows | frozen | adapters


def selections(
    policy: Policy, names: Sequence[tuple[str, ...]], apart: Mapping[str, str]
) -> dict[str, Selection]:
    """What a policy's patterns say of weights or units; see `select`."""
    default = Selection(
        True,
        min_density=policy.min_density,
        max_density=policy.max_density,
        granularity=policy.granularity,
        round_to=policy.round_to,
    )
    include, exclude, layers = policy.include, policy.exclude, policy.layers
    return select(names, include, exclude, layers, apart=apart, default=default)


def without_misfits(
    chosen: Mapping[str, Selection], made: Mapping[str, Site]
) -> tuple[dict[str, Selection], dict[str, Site]]:
    """What `fallback: dense` makes of weights that cannot have their granularity."""
    choices, found = dict(chosen), dict(made)
    for name, site in made.items():
        if not chosen[name].selected:
            continue
        try:
            _ = site.groups
        except PolicyError as error:
            reason = str(error).partition(": ")[2].partition("; give it another")[0]
            text = f"cannot be {site.granularity}: {reason}"
            choices[name] = replace(chosen[name], selected=False, reason=text)
            found[name] = replace(
                site, granularity=Granularity(), min_density=1.0, max_density=1.0
            )
    return choices, found


def coverage_of(
    model: nn.Module,
    table: CostTable,
    weights: Mapping[str, CostRow],
    chosen: Mapping[str, Selection],
    found: Capture,
) -> tuple[Coverage, ...]:
    """One row a parameter."""
    graphed = {
        f"{path}.{node.target}" if path else str(node.target)
        for path, program in found.programs.items()
        for _, part in program.parts()
        for node in part.graph.nodes
        if node.op == "get_attr"
    }
    aliases: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(value), []).append(name)
    rows = []
    for name, value in model.named_parameters():
        row, choice = table[name], chosen.get(name)
        if name in weights and choice is not None and choice.selected:
            seen = graphed.intersection(aliases[id(value)])
            kind: Any = "graph" if seen else "property"
            rows.append(Coverage(name, row.module, kind, choice.reason))
        else:
            reason = choice.reason if choice is not None else ""
            reason = reason or row.reason
            rows.append(Coverage(name, row.module, None, reason))
    return tuple(rows)


def check_coverage(
    model: nn.Module,
    covered: Sequence[Coverage],
    found: Capture,
    strict: bool,
) -> None:
    """Says which weights stay dense though nobody asked for it.

    Raises:
        MaskError: ``strict``, and there are some.
    """
    unknown = [
        row for row in covered if row.masked is None and _looks_like_weight(row, model)
    ]
    if unknown:
        text = "; ".join(f"{row.parameter} ({row.reason})" for row in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        message = f"{len(unknown)} weights stay dense: {text}{more}"
        if strict:
            raise MaskError(f"{message}; exclude them, or drop strict=True")
        _say(f"{message}; report() lists them")
    if found.inputs is not None and not found.whole:
        reason = next(iter(found.reasons.values()), "")
        parts = ", ".join(list(found.programs)[:4]) or "none"
        _say(
            f"the model is not one graph ({reason}); graphs cover {parts}"
            f"{' ...' if len(found.programs) > 4 else ''}, all selected weights are "
            "masked"
        )


def _looks_like_weight(row: Coverage, model: nn.Module) -> bool:
    """Whether a user would call it a weight that was missed."""
    said = ("excluded by", "not matched by include", FROZEN, ADAPTER)
    if row.reason.startswith(said):
        return False  # the user said so
    if model.get_parameter(row.parameter).ndim < 2:
        return False
    recurrent = (nn.RNNBase, nn.RNNCellBase)
    added = row.reason == NOT_MULTIPLIED  # a position table, say
    return not added or isinstance(model.get_submodule(row.module), recurrent)


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)
