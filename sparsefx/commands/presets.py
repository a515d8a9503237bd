"""Commands on policies: the presets, one of them, all settings."""

from __future__ import annotations

import json
from argparse import Namespace

from sparsefx.commands.answer import Answer, Plain, Rows
from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.policy import Policy, policy_schema
from sparsefx.policies.presets import preset_names, preset_purpose
from sparsefx.settings.fields import plain, settings_of

DEFAULT = "cost_budget"  # that of `sparsefx.transform`


def policies(arguments: Namespace) -> Answer:
    """The presets; how one differs from the default; the settings there are."""
    if arguments.schema:
        schema = policy_schema()
        return Plain(json.dumps(schema, indent=1), schema)
    if arguments.fields:
        known = settings_of(Policy).values()
        page = [(s.name, plain(s.default), s.meaning) for s in known]
        return Rows(("field", "default", "meaning"), page)
    if arguments.name:
        return _differences(arguments.name)
    rows = [(name, preset_purpose(name)) for name in preset_names()]
    more = "", "sparsefx policies NAME shows how one differs from cost_budget"
    return Rows(("policy", "what it is for"), rows, more)


def _differences(name: str) -> Answer:
    """A policy's settings where they are not those of the default policy."""
    policy, default = load_policy(name), load_policy(DEFAULT)
    rows = [
        (field, plain(value), plain(usual), setting.meaning)
        for field, setting in settings_of(Policy).items()
        if (value := getattr(policy, field)) != (usual := getattr(default, field))
    ]
    known = name in preset_names()
    more = ("", preset_purpose(name)) if known else ()
    return Rows(("field", name, DEFAULT, "meaning"), rows, more)
