"""Lets griffe, which reads docstrings for the site, know the section `Example:`."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Names the section as griffe does: it would set the code as prose."""

    def on_object(self, *, obj: griffe.Object, **rest: Any) -> None:
        """Renames the section of a docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)
