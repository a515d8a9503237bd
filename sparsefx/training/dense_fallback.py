"""Weights that cannot have the granularity they were given, left dense by choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.settings.granularity import Granularity
from sparsefx.settings.patterns import Selection


def without_misfits(
    chosen: Mapping[str, Selection], made: Mapping[str, Site]
) -> tuple[dict[str, Selection], dict[str, Site]]:
    """The same, where weights that cannot have their granularity stay dense."""
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
