"""The mask parameters of all sites after an update, and when masks stand still."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsefx.masking.sparse_state import FLOATS, INTEGERS, SparseState, Vectors
from sparsefx.solver.solution import Solution


def solved(state: SparseState, found: Solution, beta: float) -> dict[str, Tensor]:
    """The mask parameters after an update; masks are learning."""

    def like(name: str, values: Any) -> Tensor:
        buffer = getattr(state, name)
        return torch.tensor(values, dtype=buffer.dtype).to(buffer.device)

    given: dict[str, Any] = {
        name: [getattr(site, name) for site in found.sites]
        for name in (*FLOATS, *INTEGERS)
    }
    given["dual"] = (found.dual, beta)
    given |= {"binding": found.binding, "multipliers": found.multipliers}
    vectors = {name: like(name, values) for name, values in given.items()}
    return {**state.vectors(), **vectors, "through": torch.ones_like(state.through)}


def standing(state: SparseState, vectors: Vectors) -> dict[str, Tensor]:
    """The mask parameters once soft masks are baked in and masks stand still.

    From then on soft masks are 1, and only kept weights get a gradient.
    """
    still = {"mu": math.inf, "center": 0.0, "slope": 1.0, "spread": 0.0}
    still = {"through": 0.0} | (still if state.kept is None else {})
    return {**vectors} | {
        name: torch.full_like(vectors[name], value) for name, value in still.items()
    }
