"""Which layers are trained on their kept entries: those that are measured to be faster.

What is timed of a layer is a step: forward, both gradients, and an optimizer with
momentum; beside the same layer under its mask, at the sizes of the example inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefx.errors import MaskError
from sparsefx.kernels.support_products import layout
from sparsefx.lowering.timing import interleaved
from sparsefx.masking.compact_weight import Entries, column, compact_weight
from sparsefx.masking.compact_weights import Compact
from sparsefx.masking.kept_masks import KeptMasks, kept_weight
from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import SparseState
from sparsefx.training.life import Life

_ROWS = 512  # more tell the same of a layer
_DENSER = 0.9  # of the density at which a layer was slower: it is tried again
_ROUNDS = 3


def begin_compact(life: Life) -> None:
    """Stores what is to be trained on kept entries so, if the policy asks for that.

    Raises:
        MaskError: ranks share the training.
    """
    plan = life.plan
    if plan.policy.execution == "masked":
        return
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        raise MaskError(
            "execution='sparse' is for one process: gradients of kept entries change "
            "their places, which torch.distributed does not know; set execution: masked"
        )
    state = life.parts[-1].state
    assert isinstance(state, SparseState), "policies refuse other learners"
    able = [i for i, site in enumerate(plan.sites) if _able(state, i, site)]
    for index in able:
        _own(state, index)
    state.compact = Compact(state, able)
    masks = state.hard()
    found = faster_ones(state, plan.sites, masks)
    none = [torch.zeros_like(mask) for mask in masks]
    for write in state.compact.moved(masks, none, more=found):
        write()
    if not found and plan.policy.budget_ramp == "constant":
        why = "none is faster so at these sizes and densities"
        why = why if able else "none is a plain torch.nn.Linear"
        warnings.warn(
            f"execution='sparse' leaves all {len(plan.sites)} layers masked: {why}; "
            "give example_inputs of a training batch, a smaller budget, or set "
            "execution: masked",
            UserWarning,
            stacklevel=4,
        )


def _able(state: SparseState, index: int, site: Site) -> bool:
    """Whether a weight is that of linear layers alone, and its mask all there is."""
    plain = all(
        name == "weight" and getattr(type(m), "_sparsefx_original", None) is nn.Linear
        for m, name in state.owners[index]
    )
    groups = state.candidates is not None and site.groups is not None
    return plain and not groups


def _own(state: SparseState, index: int) -> None:
    """Gives a weight a parameter of its own: the given model keeps its entries."""
    old = state.raw()[index]
    new = nn.Parameter(old.detach().clone(), old.requires_grad)
    for owner, name in state.owners[index]:
        owner._parameters[name] = new


def check_optimizer(
    state: SparseState, optimizer: torch.optim.Optimizer | None
) -> None:
    """Refuses a step without the optimizer whose moments are to move.

    Raises:
        MaskError: it is missing, or holds not all weights.
    """
    if state.compact is None:
        return
    if optimizer is None:
        raise MaskError(
            "execution='sparse' moves the optimizer's moments with the entries they "
            "belong to; write sparsefx.step(model, optimizer=optimizer)"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    weights = state.raw()
    for index in sorted(state.compact.able):
        if weights[index].requires_grad and id(weights[index]) not in held:
            raise MaskError(
                f"the {type(optimizer).__name__} given to step does not hold "
                f"{state.names[index]!r}, whose moments move with its entries "
                "(execution='sparse'); make one optimizer of the parameters of what "
                "sparsefx.transform returned"
            )


def faster_ones(
    state: SparseState, sites: Sequence[Site], masks: Sequence[Tensor]
) -> list[int]:
    """Of the weights that may be stored as kept entries and are not, those to be so."""
    compact = state.compact
    assert compact is not None, "of models that have some"
    known: dict[object, bool] = {}
    found = []
    for index in sorted(compact.able - compact.sites):
        mask, weight = masks[index], state.raw()[index]
        density = int(mask.count_nonzero()) / max(mask.numel(), 1)
        if density > _DENSER * compact.slower.get(index, math.inf):
            continue
        rows = _rows(sites[index])
        kind = (mask.shape, rows, weight.dtype, weight.device, round(density, 2))
        if kind not in known:
            known[kind] = is_faster(mask, rows, weight)
        if known[kind]:
            found.append(index)
        else:
            compact.slower[index] = density
    return found


def _rows(site: Site) -> int:
    """Of the layer's input, for the example inputs."""
    macs = site.cost("macs") if "macs" in site.costs else _ROWS
    return max(min(round(macs), _ROWS), 1)


def is_faster(mask: Tensor, rows: int, like: Tensor) -> bool:
    """Whether a step of a linear layer is faster on its kept entries.

    Args:
        mask: where they stand, ``(N, K)``.
        rows: of its input.
        like: a tensor of its device and precision.
    """
    chance, device = torch.Generator().manual_seed(0), like.device

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=chance).to(device, like.dtype)

    x = drawn(rows, mask.shape[1]).requires_grad_()
    g = drawn(rows, mask.shape[0])
    whole = nn.Parameter(drawn(*mask.shape) * mask)
    values = nn.Parameter(column(whole.detach()[mask]))
    mu = torch.ones(1, dtype=torch.float64, device=device, requires_grad=True)
    where, kept = layout(mask), KeptMasks([whole], wide=False)
    entries = Entries(values, mask, mu, kept, 0, lambda: where)
    none = torch.zeros(1, dtype=torch.float64, device=device)
    weights = {
        "masked": (whole, lambda: kept_weight(whole, mask, None, mu, none, 0)),
        "sparse": (values, lambda: compact_weight(entries)),
    }

    def step(name: str, optimizer: torch.optim.Optimizer) -> None:
        y: Tensor = functional.linear(x, weights[name][1]())
        y.backward(g)
        optimizer.step()
        optimizer.zero_grad()
        x.grad = mu.grad = None

    with torch.enable_grad():
        calls = {
            name: partial(step, name, torch.optim.SGD([w], lr=0.0, momentum=0.9))
            for name, (w, _) in weights.items()
        }
        times = interleaved(calls, device, rounds=_ROUNDS)
    return times["sparse"] < times["masked"]
