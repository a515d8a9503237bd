"""Where a policy comes from: its name, a file, a mapping, a function, and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sparsefx.policies.policy import Policy, fields_of
from sparsefx.policies.policy_function import PolicyFunction
from sparsefx.policies.presets import preset_names, read_file, read_preset
from sparsefx.settings.fields import rule_of
from sparsefx.settings.rules import refuse, unknown

PolicySource = str | Path | Mapping[str, object] | Policy | PolicyFunction


def load_policy(source: PolicySource, **overrides: object) -> Policy:
    """A policy from its name, file, mapping or function, with fields replaced.

    Args:
        source: name of a preset; path of a YAML file (a `Path`, or a string ending in
            ``.yaml`` or ``.yml``); mapping of fields; a `Policy`; or a function
            ``(sites, budget) -> Allocation``.
        overrides: fields of `Policy` that replace those of the source.

    Raises:
        PolicyError: the source or a field is not known (the message has the nearest
            known name), or a value is not allowed.

    Example:
        >>> load_policy("spartan", budget="25%").beta
        20.0
        >>> load_policy("cost_budgte")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        sparsefx.errors.PolicyError: policy 'cost_budgte' is not known; did you mean \
'cost_budget'? known: ...
    """
    given = {**_read(source), **overrides}
    if given.get("masks") == "nonzero":
        given.setdefault("budget", 1.0)  # the zeros say how much is kept
    return Policy(**rule_of(Policy).read("", given))


def _read(source: PolicySource) -> dict[str, object]:
    if isinstance(source, Policy):
        return fields_of(source)
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, Path):
        return read_file(source)
    if isinstance(source, str):
        if source in preset_names():
            return read_preset(source)
        if source.endswith((".yaml", ".yml")):
            return read_file(source)
        unknown("policy", source, preset_names())
    if not callable(source):
        refuse(
            "policy",
            source,
            "a preset name, the path of a YAML file, a mapping, a Policy or a function",
        )
    name = getattr(source, "__name__", type(source).__name__)
    return {"allocation": source, "name": name}
