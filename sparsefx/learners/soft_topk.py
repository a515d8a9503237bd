"""Spartan's soft top-k: masks follow from the weights at every forward pass.

The solver finds the scalars of an update (`sparsefx.solver`), the masked weight applies
them (`sparsefx.masking.masked_weight`); there is nothing to decide. Source: Tai, Tian,
Lim, "Spartan: Differentiable Sparsity via Regularized Transportation", 2022 (arXiv
2205.14107).
"""

from __future__ import annotations

from sparsefx.learners.learner import Learner

SOFT_TOPK = Learner(
    name="soft_topk",
    zeroes=False,
    reads=frozenset(
        {
            "beta",
            "beta_initial",
            "beta_ramp",
            "inclusive",
            "soft_when_frozen",
            "unit_density",
        }
    ),
)
