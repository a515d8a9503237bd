"""Masks that start from what is given: tensors, or SNIP's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.learners import learner_of
from sparsefx.policies import function_of
from sparsefx.policies.policy import Policy
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.tracing.preserve import in_eval
from sparsefx.training.life import Life
from sparsefx.training.plan import Plan
from sparsefx.training.stored_weights import StoredWeights

First = Literal["learner", "nonzero", "snip"] | Mapping[str, Tensor]
_WORDS = ("learner", "nonzero", "snip")


def check_first(masks: First) -> bool:
    """Whether the first masks are given.

    Raises:
        PolicyError: the word is not known.
    """
    given = isinstance(masks, Mapping)
    if not given and masks not in _WORDS:
        raise PolicyError(
            f"masks is {masks!r}; allowed: {', '.join(_WORDS)}, or bool tensors by "
            "parameter name, as sparsefx.masks returns"
        )
    return given


def check_data(
    policy: Policy,
    calibration: Sequence[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] | None,
) -> None:
    """Refuses half of what is needed to measure; says where nothing is measured.

    Raises:
        PolicyError: calibration is given without loss, or the reverse.
    """
    given = {"calibration": len(calibration) > 0, "loss": loss is not None}
    if not any(given.values()):
        return
    _check_pairs(calibration)
    if not all(given.values()):
        odd, other = sorted(given, key=lambda name: not given[name])
        raise PolicyError(
            f"{odd} is given without {other}; the policy sensitivity needs both, "
            "others need neither"
        )
    plain = not policy.tokens and policy.rewrite == "none"
    weights = learner_of(policy.learner).part == "weights"
    function = function_of(policy.allocation)
    if not (plain and weights and hasattr(function, "prepare")):
        warnings.warn(
            "calibration and loss have no effect: nothing is measured with allocation "
            f"{policy.allocation!r} here; leave them out, or choose the policy "
            "sensitivity, without tokens, units or a rewrite",
            UserWarning,
            stacklevel=3,
        )


def start_from(life: Life, masks: Mapping[str, Tensor], budgeted: bool) -> None:
    """Makes these the masks of a model.

    Their cost is the budget of learners that are sparse from the start, and where the
    ramp of others begins.

    Args:
        life: of the model.
        masks: bool tensors by name of a parameter.
        budgeted: a budget has been asked for.

    Raises:
        MaskError: the learner does not start from masks of its own; or names, shapes
            or groups are not those of the masked weights.
        PolicyError: a budget is asked for where the masks' cost is it, or none where
            they are pruned to one.
        BudgetError: they cost less than the budget, or more and no ramp leads to it.
    """
    part, plan = life.parts[-1], life.plan
    learner = learner_of(plan.policy.learner)
    if not isinstance(part, StoredWeights) or not learner.drawn:
        raise MaskError(
            f"the learner {learner.name} finds its first masks itself; masks can be "
            "given to fixed, rigl, set and granet"
        )
    if learner.steady == budgeted:
        raise PolicyError(
            "masks that are given have a cost, and that is the budget; leave budget "
            "out, or masks"
            if budgeted
            else f"the learner {learner.name} prunes masks that are given down to a "
            "budget; give budget=, below their cost"
        )
    state = part.state
    if masks.keys() != set(state.names):
        odd = sorted(masks.keys() ^ set(state.names))
        raise MaskError(
            f"masks are given for {len(masks)} weights, {len(state.names)} are masked; "
            f"they differ in {', '.join(odd[:5])}: give one for each, or exclude it"
        )
    found = [masks[name].to(w.device) for name, w in _rows(part)]
    for mask, cut, (name, weight) in zip(
        found, state.groups(), _rows(part), strict=True
    ):
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise MaskError(
                f"the mask of {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; "
                f"give bools of shape {tuple(weight.shape)}"
            )
        whole = (
            mask if cut is None else cut.expand(weight, cut.values(mask.float()) > 0)
        )
        if not torch.equal(whole, mask):
            raise MaskError(
                f"the mask of {name!r} keeps parts of groups; with granularity "
                f"{plan.sites[state.names.index(name)].granularity} keep whole ones"
            )
    kept = state.kept
    assert kept is not None
    kept.take({f"mask_{index}": mask for index, mask in enumerate(found)})
    for write in kept.explored.after(found, anew=True)[0]:
        write()
    spent = plan.spent(part.entries())
    if learner.steady:
        rows = zip(plan.targets, spent, strict=True)
        targets = tuple(replace(target, limit=cost) for target, cost in rows)
        life.plan = part.plan = replace(plan, targets=targets)
    else:
        life.plan = part.plan = replace(plan, policy=_ramped(plan, spent))


def _ramped(plan: Plan, spent: Sequence[float]) -> Policy:
    """A plan's policy whose ramp begins where these costs are."""
    policy = plan.policy
    shares = [cost / plan.total(t) for cost, t in zip(spent, plan.targets, strict=True)]
    for cost, target in zip(spent, plan.targets, strict=True):
        above = cost > target.limit * (1 + BUDGET_SLACK)
        if cost < target.limit or (above and policy.budget_ramp == "constant"):
            raise BudgetError(
                f"the masks keep {cost:.6g} {target.cost}, and the budget is "
                f"{target.limit:.6g}: give masks that cost as much or more, and a "
                "budget_ramp that leads from one to the other"
            )
    if policy.budget_ramp == "constant":
        return policy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say has been said
        return replace(policy, initial_budget=min(max(shares), 1.0))


def saliencies(
    model: nn.Module,
    calibration: Sequence[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] | None,
) -> dict[str, Tensor]:
    r"""SNIP's connection sensitivity of every parameter, :math:`|w \, dL/dw|`.

    It is the derivative of the loss with respect to a mask that is 1. Source: Lee,
    Ajanthan, Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
    ICLR 2019 (arXiv 1810.02340). The model is left as it is.

    Args:
        model: the dense model, which is run in eval mode.
        calibration: pairs of input and target; gradients of their losses add up.
        loss: of output and target.

    Raises:
        PolicyError: calibration or loss is missing.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(net.weight, 2.0)
        >>> data = [(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 1))]
        >>> saliencies(net, data, lambda out, target: (out - target).sum())
        {'weight': tensor([[2., 6.]])}
    """
    if loss is None or not calibration:
        raise PolicyError(
            "masks='snip' ranks weights by gradients; give calibration=[(x, y), ...] "
            "and loss="
        )
    _check_pairs(calibration)
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    leaves = {n: p.detach().clone().requires_grad_() for n, p in named.items()}
    losses = []
    with in_eval(model), torch.enable_grad():
        for inputs, target in calibration:
            args = inputs if isinstance(inputs, tuple) else (inputs,)
            out = torch.func.functional_call(model, leaves, args)
            losses.append(loss(out, target))
        total = torch.stack(losses).sum()
        slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else (leaf * slope).detach().abs()
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }


def start_by(life: Life, values: Mapping[str, Tensor]) -> None:
    """Makes the weights of largest values per cost the first masks of a model.

    Raises:
        MaskError: the learner has no masks of its own to start from.
    """
    part, learner = life.parts[-1], learner_of(life.plan.policy.learner)
    if not isinstance(part, StoredWeights) or not learner.drawn:
        raise MaskError(
            f"the learner {learner.name} finds its first masks itself; masks='snip' is "
            "for fixed, rigl, set and granet"
        )
    shapes = {name: value.shape for name, value in values.items()}
    if new := [name for name, w in _rows(part) if shapes.get(name) != w.shape]:
        raise MaskError(
            "masks='snip' ranks the weights of the model as it was given, which has "
            f"no {new[0]!r} of this shape; leave the rewrite or the tokens out"
        )
    part.first = [values[name] for name in part.state.names]
    life.begin()
    part.first = None


def _rows(part: StoredWeights) -> Sequence[tuple[str, Tensor]]:
    return list(zip(part.state.names, part.state.weights(), strict=True))


def _check_pairs(calibration: Sequence[object]) -> None:
    for pair in calibration:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise PolicyError(
                f"calibration holds a {type(pair).__name__}; give a list of pairs of "
                "input and target, [(x, y), ...]"
            )
