"""Models rewritten before they are masked: one graph, larger and sparser layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparsefx.errors import MaskError, PolicyError
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.iso_flop.record import KEY, IsoFlop, record_of
from sparsefx.passes.sparse_doped import SparseDoped
from sparsefx.passes.sparse_factorized import SparseFactorized
from sparsefx.passes.sparse_parallel import SparseParallel
from sparsefx.passes.sparse_wide import SparseWide
from sparsefx.policies.policy import Policy
from sparsefx.settings.fields import rule_of
from sparsefx.training.life import life_of
from sparsefx.training.whole_graph import Start, as_model, whole_graph

MEMBERS: Mapping[str, Any] = {
    "sparse_wide": SparseWide,
    "sparse_parallel": SparseParallel,
    "sparse_factorized": SparseFactorized,
    "sparse_doped": SparseDoped,
}


def rewritten(
    model: nn.Module, policy: Policy, example_inputs: Any, *, inplace: bool
) -> Start:
    """Rewrites a model as the policy's ``rewrite`` says.

    Returns:
        a graph module with the model's call signature, and the policy with the
        densities of the new layers.

    Raises:
        MaskError: ``inplace``, though the result is a new model.
        CaptureError: the model is not one graph, which a rewrite needs.
        PolicyError: the rewrite does not know an option, or a setting contradicts it.
    """
    if inplace:
        raise MaskError(
            f"rewrite {policy.rewrite!r} makes a new model; drop inplace=True"
        )
    rewrite = rewrite_of(policy)
    if policy.budget != Policy().budget:
        warnings.warn(
            f"budget {policy.budget!r} has no effect with rewrite {policy.rewrite!r}, "
            "which keeps the dense model's cost; set density instead",
            UserWarning,
            stacklevel=3,
        )
    for name in ("exclude", "layers"):
        if getattr(policy, name):
            raise PolicyError(
                f"{name} has no effect with rewrite {policy.rewrite!r}, which decides "
                "how much of each layer is kept; name the layers to rewrite by include"
            )
    found = whole_graph(model, example_inputs)
    made = rewrite(found.graphs[""])
    record = record_of(made)
    settled = replace(
        policy,
        budget={"macs": f"{record.macs['after']} MACs"},
        include=tuple(record.kept),
        allocation="layerwise",  # which a ramp of the budget reaches by degrees
        densities={
            name: count / made.get_parameter(name).numel()
            for name, count in record.kept.items()
        },
    )
    totals = cost_table(model, found.priced, found.observed).totals()
    original = {cost: total["maskable"] for cost, total in totals.items()}
    return Start(as_model(made, found), settled, original)


def rewrite_of(policy: Policy) -> Any:
    """The pass that a policy asks for, with its options.

    Raises:
        PolicyError: an option is not known, or has a value that is not allowed.
    """
    member = MEMBERS[policy.rewrite]
    given = {"density": policy.density, **policy.rewrite_options}
    if policy.include:
        given["select"] = policy.include
    return member(**rule_of(member, "entry of {}").read("rewrite_options", given))


def calibrate(root: nn.Module) -> None:
    """Scales new weights so that what the first masks keep carries the dense energy.

    Random masks keep an average share of the energy; masks of the largest weights
    keep more, so that the same weights would start with larger outputs.
    """
    energies = record_of_root(root).energies
    changed = False
    with torch.no_grad():
        for name, wanted in energies.items():
            path, _, attribute = name.rpartition(".")
            owner = root.get_submodule(path)
            weight = owner._parameters[attribute]
            assert weight is not None
            kept = float(getattr(owner, attribute).double().square().sum())
            if wanted > 0 and kept > 0:
                weight.mul_(math.sqrt(wanted / kept))
                changed = True
    if changed:
        life_of(root, "transform").begin()


def record_of_root(root: nn.Module) -> IsoFlop:
    """The record of the rewrite that made a model, also when it is masked.

    Raises:
        MaskError: no rewrite made it.
    """
    meta = getattr(root, "meta", {})
    if not isinstance(meta, Mapping) or KEY not in meta:
        raise MaskError("this model was not rewritten")
    found = meta[KEY]
    assert isinstance(found, IsoFlop)
    return found
