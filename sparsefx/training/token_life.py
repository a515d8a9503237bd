"""Tokens in the life of a model: they cool at each step, and reports name them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, cast

from torch import nn

from sparsefx.masking.masked_module import unwrapped
from sparsefx.passes.tokens.token_scorer import TokenScorer, cool
from sparsefx.reports.report import Cost, LayerReport, Report
from sparsefx.training.step_report import StepReport

P = ParamSpec("P")


def cools_tokens(
    function: Callable[Concatenate[nn.Module, P], StepReport],
) -> Callable[Concatenate[nn.Module, P], StepReport]:
    """Makes a step also lower the temperatures of token selections."""

    @functools.wraps(function)
    def stepped(module: nn.Module, *args: P.args, **kwargs: P.kwargs) -> StepReport:
        info = function(module, *args, **kwargs)
        cool(unwrapped(module), info.step)
        return info

    return cast(Callable[Concatenate[nn.Module, P], StepReport], stepped)


def reports_tokens(
    function: Callable[Concatenate[nn.Module, P], Report],
) -> Callable[Concatenate[nn.Module, P], Report]:
    """Makes a report also speak of token selections."""

    @functools.wraps(function)
    def told(module: nn.Module, *args: P.args, **kwargs: P.kwargs) -> Report:
        return with_tokens(function(module, *args, **kwargs), unwrapped(module))

    return cast(Callable[Concatenate[nn.Module, P], Report], told)


def with_tokens(report: Report, root: nn.Module) -> Report:
    """The report with a row for each token selection before the layers.

    The row's MACs are those of the whole model with the selection, and without it;
    totals do not add them: they speak of the model that is left.
    """
    rows = []
    for name, module in root.named_modules():
        if not isinstance(module, TokenScorer) or module.choice is None:
            continue
        choice = module.choice
        costs = {cost: Cost(0, 0) for cost in report.totals}
        costs["macs"] = Cost(choice.macs, choice.without)
        rows.append(
            LayerReport(
                f"{name} before {choice.before}",
                "select_tokens",
                (choice.tokens,),
                "token",
                choice.kept / choice.tokens,
                costs,
            )
        )
    return replace(report, layers=(*rows, *report.layers)) if rows else report
