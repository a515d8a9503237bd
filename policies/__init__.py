"""Who decides how much where: one function a file, and the presets as YAML.

The module is also the public function `sparsefx.policies()`: calling it lists the
names of the presets.

Example:
    >>> import sparsefx.policies
    >>> "cost_budget" in sparsefx.policies.preset_names()
    True
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType

from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.er import er
from sparsefx.policies.erk import erk
from sparsefx.policies.layerwise import layerwise
from sparsefx.policies.policy_function import PolicyFunction
from sparsefx.policies.presets import preset_names
from sparsefx.policies.same_latency import same_latency
from sparsefx.policies.sensitivity import sensitivity
from sparsefx.policies.uniform import uniform

ALLOCATIONS: Mapping[str, PolicyFunction] = {
    "cost_budget": cost_budget,
    "uniform": uniform,
    "erk": erk,
    "er": er,
    "layerwise": layerwise,
    "sensitivity": sensitivity,
    "same_latency": same_latency,
}


def function_of(given: str | PolicyFunction) -> PolicyFunction:
    """The policy function of a policy, which has a name or a function.

    Example:
        >>> function_of("erk").__name__
        'erk'
    """
    return ALLOCATIONS[given] if isinstance(given, str) else given


class _CallableModule(ModuleType):
    """A module that answers `sparsefx.policies()` and still holds the files here."""

    def __call__(self) -> tuple[str, ...]:
        """Names of the presets, see `preset_names`."""
        return preset_names()


sys.modules[__name__].__class__ = _CallableModule
