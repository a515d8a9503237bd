"""State dicts show whole weights, also those that are stored as their kept entries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def whole_in_state_dicts(
    cls: type[nn.Module], masks: str
) -> Mapping[str, Callable[..., None]]:
    """Two methods of a masked module.

    What is loaded goes into whole parameters; they are narrowed when the masks have
    been loaded too.

    Args:
        cls: the module's class.
        masks: the attribute that holds what masks its weights.
    """
    save, load = cls._save_to_state_dict, cls._load_from_state_dict

    @functools.wraps(save)
    def _save_to_state_dict(
        self: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        save(self, destination, prefix, keep_vars)
        compact = getattr(self.__dict__.get(masks), "compact", None)
        if compact is not None:
            compact.written(self, destination, prefix)

    @functools.wraps(load)
    def _load_from_state_dict(self: nn.Module, *given: Any) -> None:
        compact = getattr(self.__dict__.get(masks), "compact", None)
        if compact is not None:
            compact.widen(self)
        load(self, *given)

    return {
        "_save_to_state_dict": _save_to_state_dict,
        "_load_from_state_dict": _load_from_state_dict,
    }
