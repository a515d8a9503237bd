"""The step of the authors' own package, from a checkout of facebookresearch/spartan.

The package is not part of this repository (its licence forbids commercial use) and is
not changed; it needs numpy.
"""

from __future__ import annotations

import copy
import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn


def package(path: str) -> Any:
    """Their module with the `Sparsifier`, from a checkout."""
    sys.path.insert(0, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("spartan.sparsifier")
    finally:
        sys.path.remove(path)
    logging.disable(logging.INFO)
    return module


def trained(path: str, model: nn.Module, density: float, steps: int) -> Any:
    """Their `Sparsifier` on a model, which it changes, with their schedule."""
    module = package(path)
    config = module.SparsifierConfig(cost_frac_target=density, adjust_cost_frac=False)
    return module.Sparsifier(model, config, steps, verbose=False)


def sparsifier(path: str, model: nn.Module, density: float, beta: float) -> object:
    """Their `Sparsifier` on a model, which it changes, at constant density and beta."""
    module = package(path)
    config = module.SparsifierConfig(
        cost_frac_init=density,
        cost_frac_target=density,
        sinkhorn_beta_init=beta,
        sinkhorn_beta_target=beta,
        adjust_cost_frac=False,
    )
    return module.Sparsifier(model, config, 1_000_000, verbose=False)


def projector(
    path: str, model: nn.Module, density: float, beta: float
) -> Callable[[], object]:
    """Their step on a copy of a model, as a function."""
    found = sparsifier(path, copy.deepcopy(model), density, beta)
    return found.step
