"""What a policy function may have beside its call, and how it is asked.

A policy function maps ``(sites, budget)`` to an `Allocation`, or to densities by site
name. It takes by name what it wants of ``cost``, ``budgets`` (all of them, by cost),
``normalize`` and ``densities`` (settings of the policy). A frozen object with a
``__call__`` is one too, and may have more:

* ``prepare(model, sites, context)`` returns the function to use: the place to measure.
* ``asked(sites)`` are the densities it gives however much is allowed, one a site: what
  they cost is the budget, if that is less.
* ``by_weights = True``: it answers the sites' bounds, whatever the budget, and leaves
  the rest to the weights, so that no step has to ask it.
* ``may_empty = True``: it can leave a layer without weights that nobody meant to lose;
  ``keep_units`` then gives each layer a floor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.latency_line import Line
from sparsefx.settings.budget import Budget

_OFFERED = dict.fromkeys(("cost", "budgets", "normalize", "densities"))

PolicyFunction = Callable[..., Allocation | Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a policy function may look at before it is asked.

    Attributes:
        budgets: those that were asked for, as parsed.
        example_inputs: as given to `sparsefx.transform`.
        calibration: batches, pairs of input and target; empty if none were given.
        loss: of output and target.
        latencies: measures every layer on this machine, at the first call; by site
            name.
    """

    budgets: Sequence[Budget]
    example_inputs: Any
    calibration: Sequence[tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor] | None
    latencies: Callable[[], Mapping[str, Line]]


def prepared(
    function: PolicyFunction, model: nn.Module, sites: Sequence[Site], context: Context
) -> PolicyFunction:
    """What the function's ``prepare`` returns; itself if it has none.

    Args:
        function: a policy function.
        model: the dense model; it must stay as it is.
        sites: the weights to mask, with the live tensors in ``weight``.
        context: what else is known.

    Raises:
        PolicyError: ``prepare`` returns something that cannot be called.
    """
    prepare = getattr(function, "prepare", None)
    if prepare is None:
        return function
    found: PolicyFunction = prepare(model, sites, context)
    if not callable(found):
        raise PolicyError(
            f"prepare of {type(function).__name__} answers {type(found).__name__}; "
            "return the policy function to use"
        )
    return found


def asked(
    function: PolicyFunction, sites: Sequence[Site], settings: Mapping[str, object]
) -> list[float] | None:
    """The densities that the function gives however much is allowed, if any."""
    found = getattr(function, "asked", None)
    return None if found is None else list(found(sites, **accepted(found, settings)))


def by_weights(function: PolicyFunction) -> bool:
    """Whether the weights decide, within the sites' own bounds."""
    return bool(getattr(function, "by_weights", False))


def may_empty(function: PolicyFunction) -> bool:
    """Whether the function can leave a layer with nothing."""
    return bool(getattr(function, "may_empty", False))


def accepted(
    function: Callable[..., object], known: Mapping[str, object]
) -> dict[str, object]:
    """What of the known a function takes by name.

    Example:
        >>> accepted(lambda sites, budget, cost: None, {"cost": "macs", "seed": 1})
        {'cost': 'macs'}
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of classes and functions in C
        return {}
    return {name: value for name, value in known.items() if name in parameters}


def check_call(function: PolicyFunction, name: str) -> None:
    """Refuses what cannot be called with sites and a budget.

    Raises:
        PolicyError: it cannot, or does not say how it is called.
    """
    try:
        inspect.signature(function).bind((), 1.0, **accepted(function, _OFFERED))
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"policy {name!r} cannot be called as function(sites, budget): {error}; "
            "give a function of these two, and if it likes of "
            f"{', '.join(_OFFERED)}"
        ) from None
