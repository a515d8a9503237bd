r"""Chooses how many tokens stay, and makes the model that drops the others.

A budget of MACs is spent on tokens and weights together. With a share :math:`s` of the
tokens the model costs :math:`c(s)`, and weights (or units) of density :math:`d(s)` use
up the budget :math:`k`. Without other knowledge all are cut alike, within the bounds:

    s = max { s : s <= d(s),  min_keep <= s <= max_keep },   d(s) = (k - f(s)) / m(s)

with :math:`f` the fixed and :math:`m` the maskable part of :math:`c`. Where nothing but
tokens is dropped, :math:`s` is the largest share with :math:`c(s) \le k`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import fx, nn

from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.learners import learner_of
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.graphs.owned_graph import own_graph, settle_sizes
from sparsefx.passes.select_tokens import SelectTokens, anchor_of
from sparsefx.passes.tokens.token_scorer import TokenChoice, scorers
from sparsefx.policies.policy import Policy
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.token_options import Place, TokenOptions, parse_tokens
from sparsefx.torch_internals import hint
from sparsefx.tracing.graph_module import assembled, held_by
from sparsefx.training.whole_graph import Start, as_model, whole_graph

Keep = int | float
Totals = Mapping[str, Mapping[str, float]]


def shortened(
    model: nn.Module, policy: Policy, example_inputs: Any, *, inplace: bool
) -> Start:
    """Puts the token selections into a model that the policy asks for.

    Returns:
        a graph module with the model's call signature, and the policy with its budget
        of MACs as an amount.

    Raises:
        MaskError: ``inplace``, though the result is a new model; or nothing in the
            model takes (batch, tokens, width).
        PolicyError: the policy leaves the number of tokens to a budget that does not
            speak of MACs.
        BudgetError: the budget is below what the least number of tokens costs.
        CaptureError: the model is not one graph, or what follows a place needs the
            number of tokens it was recorded with.
    """
    if inplace:
        raise MaskError("dropping tokens makes a new model; drop inplace=True")
    options = parse_tokens(policy.tokens)
    assert options is not None
    found = whole_graph(model, example_inputs)
    given = cost_table(model, found.priced, found.observed).totals()
    base = own_graph(found.graphs[""])
    part = learner_of(policy.learner).part
    places = resolved(model, base, options)
    limit = _limit(policy, given, part != "weights")
    keeps = options.keep
    if not keeps:
        if limit is None:
            raise PolicyError(
                f"budget {policy.budget!r} says nothing of MACs, so it cannot say how "
                "many tokens stay; give tokens={'keep': 0.7}, or a budget in macs"
            )
        keeps = _chosen(_plain(base), places, options, policy, limit)
    if len(keeps) == 1:
        keeps *= len(places)
    if len(keeps) != len(places):
        raise PolicyError(
            f"tokens['keep'] has {len(keeps)} amounts for {len(places)} places "
            f"({', '.join(places[:3])}, ...); give one for all, or one each"
        )
    made, totals = _made(base, places, keeps, options)
    spent = totals[-1]["macs"]["total"]
    if part == "tokens" and limit is not None and spent > limit:
        raise BudgetError(
            f"tokens['keep'] {list(options.keep)} leaves {spent:.6g} MACs, above the "
            f"budget's {limit:.6g}; lower keep, or leave it out"
        )
    _describe(made, places, options, policy, [given, *totals])
    new, settled = as_model(made, found), _settled(policy, limit)
    if part != "weights":
        return Start(new, settled, {c: cost["total"] for c, cost in given.items()})
    settled = replace(settled, exclude=(*policy.exclude, "tokens_*"))
    original: dict[str, float] = {c: cost["maskable"] for c, cost in given.items()}
    original["macs"] = given["macs"]["total"] - totals[-1]["macs"]["fixed"]
    return Start(new, settled, original)


def resolved(
    model: nn.Module, graph_module: fx.GraphModule, options: TokenOptions
) -> list[str]:
    """The places as paths of modules, in the order of execution.

    Raises:
        MaskError: a number or fraction, and the model has no stack of blocks that
            take (batch, tokens, width); or there are fewer blocks.
    """
    stack = _stack(model, graph_module)
    found = [_path(place, stack, model) for place in options.before]
    if options.inside:
        found = _matching(model, graph_module, found)
    anchors = {path: anchor_of(graph_module.graph, path)[1] for path in found}
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    if found != sorted(found, key=lambda path: order[anchors[path]]):
        raise MaskError(
            f"tokens['before'] {list(options.before)} is not in the order in which the "
            "model runs; list the first place first"
        )
    return found


def _matching(
    model: nn.Module, graph_module: fx.GraphModule, patterns: Sequence[str]
) -> list[str]:
    """The modules that take tokens and have these paths, as the model runs them."""
    found: dict[str, fx.Node] = {}
    for pattern in patterns:
        names = [n for n, _ in model.named_modules() if fnmatchcase(n, pattern)]
        if not names:
            raise MaskError(
                f"tokens['before'] {pattern!r} is no module of {type(model).__name__}; "
                "give paths or patterns of attentions, such as 'blocks.*.attn'"
            )
        found |= {n: anchor_of(graph_module.graph, n)[1] for n in names}
    return sorted(found, key=lambda name: found[name])


def _path(place: Place, stack: Sequence[str], model: nn.Module) -> str:
    if isinstance(place, str):
        return place
    if not stack:
        raise MaskError(
            f"{type(model).__name__} has no stack of equal blocks that take (batch, "
            "tokens, width), so there are no tokens to choose; give the path of a "
            "module that does, tokens={'before': 'encoder.3'}, or leave tokens out"
        )
    index = int(place * len(stack)) if isinstance(place, float) else place
    if index >= len(stack):
        raise MaskError(
            f"tokens['before'] is {place}, but {type(model).__name__} has "
            f"{len(stack)} blocks ({stack[0]} to {stack[-1]}); give a number from 0 to "
            f"{len(stack) - 1}"
        )
    return stack[index]


def _stack(model: nn.Module, graph_module: fx.GraphModule) -> list[str]:
    """The paths of the largest run of equal blocks that take tokens."""
    best: tuple[int, list[str]] = (0, [])
    for path, module in model.named_modules():
        children = list(module.named_children())
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            continue
        if len(children) < 2 or len({type(child) for _, child in children}) > 1:
            continue
        paths = [f"{path}.{name}" if path else name for name, _ in children]
        try:
            for one in paths:
                anchor_of(graph_module.graph, one)
        except MaskError:
            continue
        size = sum(p.numel() for p in module.parameters())
        best = max(best, (size, paths), key=lambda pair: pair[0])
    return best[1]


def _limit(policy: Policy, given: Totals, units: bool) -> float | None:
    """The MACs that the budget allows, of the model as it was given."""
    for budget in parse_budget(policy.budget, policy.cost, tuple(policy.costs)):
        if budget.cost == "macs":
            whole = units or policy.budget_of == "model"
            return budget.limit(given["macs"]["total" if whole else "maskable"])
    return None


def _settled(policy: Policy, limit: float | None) -> Policy:
    if limit is None:
        return policy
    amount = f"{limit!r} MACs"
    asked = policy.budget if isinstance(policy.budget, Mapping) else {"macs": ""}
    budget = {k: amount if k in ("macs", "flops") else v for k, v in asked.items()}
    if "flops" in budget:
        budget["macs"] = budget.pop("flops")
    return replace(policy, budget=budget)


def _chosen(
    base: fx.GraphModule,
    places: Sequence[str],
    options: TokenOptions,
    policy: Policy,
    limit: float,
) -> tuple[Keep, ...]:
    """The share of the tokens that the budget pays for; equal at all places."""
    anchor, _ = anchor_of(base.graph, places[0])
    number = hint(anchor.meta["val"].shape[1]) - options.prefix
    low = max(1, math.ceil(options.min_keep * number - 1e-9))
    high = max(low, math.floor(options.max_keep * number + 1e-9))
    part = learner_of(policy.learner).part
    alone, whole = part == "tokens", part == "units"
    model = policy.budget_of == "model"

    def fits(count: int) -> bool:
        share = count / number
        _, totals = _made(base, places, [share] * len(places), options)
        cost = totals[-1]["macs"]
        if alone:
            return bool(cost["total"] <= limit)
        if whole:  # units own nearly all that costs anything
            return bool(share * cost["total"] <= limit)
        fixed = cost["fixed"] if model else 0.0
        return bool(share * cost["maskable"] + fixed <= limit)

    found = largest(fits, low, high)
    if found is None and alone:
        _, totals = _made(base, places, [low / number] * len(places), options)
        least = totals[-1]["macs"]["total"]
        raise BudgetError(
            f"budget {policy.budget!r} allows {limit:.6g} MACs, but with {low} of "
            f"{number} tokens before {', '.join(places)} the model still costs "
            f"{least:.6g}; raise the budget, lower min_keep, drop tokens earlier, or "
            "choose a policy that also drops weights or units"
        )
    share = (low if found is None else found) / number
    return (share,)


def largest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest whole number that fits, if all below it do; None if none does.

    Example:
        >>> largest(lambda n: n * n <= 50, 1, 100), largest(lambda n: False, 1, 3)
        (7, None)
    """
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _plain(base: fx.GraphModule) -> fx.GraphModule:
    """The same graph without symbols, to be priced many times."""
    twin = assembled(copy.deepcopy(base.graph), held_by(base), base)
    settle_sizes(twin)
    return twin


def _made(
    base: fx.GraphModule,
    places: Sequence[str],
    keeps: Sequence[Keep],
    options: TokenOptions,
) -> tuple[fx.GraphModule, list[Totals]]:
    """The graph with selections, and what it costs with the first, the second ..."""
    made = assembled(copy.deepcopy(base.graph), held_by(base), base)
    totals: list[Totals] = []
    for place, keep in zip(places, keeps, strict=True):
        SelectTokens(place, keep, options.prefix, options.inside)(made)
        totals.append(cost_table(made, {"": made}).totals())
    return made, totals


def _describe(
    made: fx.GraphModule,
    places: Sequence[str],
    options: TokenOptions,
    policy: Policy,
    totals: Sequence[Totals],
) -> None:
    """Tells the scorers what reports and the temperature's schedule need."""
    for index, (place, scorer) in enumerate(zip(places, scorers(made), strict=True)):
        without, after = (totals[i]["macs"]["total"] for i in (index, index + 1))
        where = f"{'inside' if options.inside else 'before'} {place}"
        scorer.choice = TokenChoice(where, *scorer.counts, float(after), float(without))
        scorer.steps, scorer.ends = policy.total_steps, options.tau
