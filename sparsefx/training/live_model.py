"""A sparse model while it lives: made, stepped, asked for its masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import MaskError
from sparsefx.learners import learner_of
from sparsefx.masking.copies import duplicate
from sparsefx.masking.held import Held
from sparsefx.masking.masked_module import program_of, restore, unwrapped
from sparsefx.masking.rank_means import ranks_of
from sparsefx.masking.site import Site
from sparsefx.policies.load_policy import PolicySource, load_policy
from sparsefx.reports.report import Report
from sparsefx.tracing.capture import by_path
from sparsefx.training.build import build
from sparsefx.training.build_rewritten import calibrate, rewritten
from sparsefx.training.build_tokens import shortened
from sparsefx.training.build_units import build_units
from sparsefx.training.compact_execution import begin_compact
from sparsefx.training.first_masks import (
    First,
    check_data,
    check_first,
    saliencies,
    start_by,
    start_from,
)
from sparsefx.training.life import life_of
from sparsefx.training.order_of_calls import (
    check_model,
    say_if_beyond,
    say_if_early,
    say_if_foreign,
)
from sparsefx.training.recipe import recipe_of
from sparsefx.training.skipped_steps import skipped
from sparsefx.training.step_report import StepReport
from sparsefx.training.teacher import Lesson, Teacher, as_teacher
from sparsefx.training.whole_graph import Start, recorded
from sparsefx.training.whole_model import whole_model


def transform(
    model: nn.Module,
    policy: PolicySource = "cost_budget",
    *,
    example_inputs: Any = None,
    inplace: bool = False,
    strict: bool = False,
    calibration: Sequence[tuple[Any, Any]] = (),
    loss: Callable[[Any, Any], Tensor] | None = None,
    masks: First = "learner",
    teacher: nn.Module | Teacher | None = None,
    mesh: Any = None,
    **overrides: Any,
) -> nn.Module:
    """Makes a model train sparse: its weights are masked under an exact budget.

    Args:
        model: any module. It is not touched unless ``inplace``; the result shares its
            parameters and buffers, so that an existing optimizer stays valid.
        policy: a preset's name, the path of a YAML file, a mapping, a `Policy`, or a
            function ``(sites, budget) -> Allocation``.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, for
            the graph and the costs, or a list of such, a graph for each (costs are of
            the first). Without them, what the model offers is used.
        inplace: transform the model itself.
        strict: raise if a selected weight cannot be masked, instead of warning.
        calibration: a few batches, pairs of input and target, for the policy
            ``sensitivity`` or ``masks="snip"``; and the ``loss`` of output and target
            they are judged by.
        loss: see ``calibration``.
        masks: ``"nonzero"`` keeps the zeros that are there, whatever the learner of
            weights: to train on what `finalize` returned, or prune it further. Without
            ``budget=`` nothing more is dropped.
            Bool tensors by parameter name, such as `masks` returns, are where
            ``fixed``, ``rigl`` and ``set`` start, and their budget; ``granet`` prunes
            them down to ``budget=``. ``"snip"`` starts these four from the weights of
            largest ``|w dL/dw|`` on the calibration batches, as many of each layer as
            the allocation says.
        teacher: a dense model to learn from besides, ``model`` as it is now, say: in
            training gradients are those of the loss and of what sets outputs apart
            from the teacher's. `sparsefx.training.teacher.Teacher` has a weight.
        mesh: the process group, or device mesh of one dimension, of the ranks whose
            gradients DDP averages; all ranks if not given. Those of FSDP2 and tensor
            parallelism are known by themselves.
        overrides: fields of `Policy`: ``budget=``, ``total_steps=``, ``exclude=`` ...

    Returns:
        A module of the model's class with the same parameter names and signature; with
        a policy that rewrites the structure or drops tokens, a graph module with the
        signature and tensors of its own. With ``execution="sparse"`` parameters of
        linear layers are new, and may hold their kept entries alone.

    Raises:
        PolicyError: the policy or one of its fields is not understood.
        BudgetError: the budget cannot be met.
        CaptureError: the model does not run on the example inputs.
        MaskError: the model is already transformed, has nothing to mask, or ``strict``
            and a weight stays dense.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> sparse = transform(net, budget=0.25, example_inputs=(torch.randn(2, 8),))
        >>> sum(int(mask.sum()) for mask in masks(sparse).values())
        48
    """
    budgeted = "budget" in overrides
    if check_first(masks) and not budgeted:
        overrides["budget"] = 1.0
    if masks == "nonzero":
        overrides["masks"] = masks
    settings = load_policy(policy, **overrides)
    averaging = None if mesh is None else ranks_of(mesh)
    check_model(model)
    lesson = None if teacher is None else Lesson(as_teacher(teacher), model)
    values = saliencies(model, calibration, loss) if masks == "snip" else {}
    if masks != "snip":
        check_data(settings, calibration, loss)
    part = learner_of(settings.learner).part
    if settings.tokens:
        start = shortened(model, settings, example_inputs, inplace=inplace)
    elif settings.rewrite != "none":
        start = rewritten(model, settings, example_inputs, inplace=inplace)
    else:
        start = Start(recorded(model, example_inputs), settings)
    new = start.found.root is not model
    options: dict[str, Any] = {"inplace": inplace or new, "strict": strict}
    if part == "weights":
        data: dict[str, Any] = {"calibration": calibration, "loss": loss}
        sparse = build(start, **options, **({} if new else data))
    else:
        sparse = build_units(start, **options)
    if settings.rewrite != "none":
        calibrate(sparse)
    life = life_of(sparse, "transform")  # remembers where the weights stand
    for held in life.modules():
        if isinstance(held, Held):
            held.data = averaging
    try:
        if isinstance(masks, Mapping):
            start_from(life, masks, budgeted)
            if settings.initial_budget != life.plan.policy.initial_budget:
                settings = life.plan.policy
        elif values:
            start_by(life, values)
        begin_compact(life)
    except BaseException:
        restore(sparse)  # it may be the user's own
        raise
    life.recipe = recipe_of(settings, example_inputs, life.plan)
    if lesson is not None:
        life.lesson = sparse.register_forward_hook(lesson, with_kwargs=True)
    return sparse


def step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> StepReport:
    """Moves the masks one step; call it after ``optimizer.step()``.

    A step that a gradient scaler skipped, because gradients overflowed, is none: with
    ``scaler`` nothing moves then, and the report is that of the step before. Call it
    after ``scaler.step(optimizer)`` and before ``scaler.update()``, with which a scaler
    forgets what it did.

    Args:
        module: what `transform` returned, also inside DDP or ``torch.compile``.
        optimizer: always welcome; learners that set its state to zero where masks move
            need it (magnitude, set, rigl, granet, unless ``optimizer_state="keep"``),
            and ``execution="sparse"`` does.
        scaler: what steps the optimizer under automatic mixed precision.

    Raises:
        MaskError: the module is not transformed or is finalized, a weight has NaN or
            infinite entries, or the scaler has not stepped the optimizer since its last
            update; whatever is raised, the model is as it was.

    Example:
        >>> net = nn.Linear(8, 4)
        >>> sparse = transform(net, budget=0.5, example_inputs=(torch.randn(2, 8),))
        >>> step(sparse).hard_cost
        32.0
    """
    life = life_of(module, "step")
    known = all(hasattr(optimizer, name) for name in ("param_groups", "state"))
    if optimizer is not None and not known:
        raise MaskError(
            f"optimizer is a {type(optimizer).__name__}; give the "
            "torch.optim.Optimizer that trains this model, or None"
        )
    if scaler is not None and skipped(scaler, optimizer):
        return life.wait(optimizer)
    if optimizer is not None and life.step == 0:
        say_if_foreign(module, optimizer)
    say_if_beyond(life)
    return life.advance(optimizer)


def masks(module: nn.Module) -> dict[str, Tensor]:
    """The hard masks (bool, True is kept) by parameter name, or group of units.

    Example:
        >>> net = nn.Linear(4, 1)
        >>> _ = nn.init.constant_(net.weight, 1.0)
        >>> masks(transform(net, budget=0.5, example_inputs=(torch.ones(1, 4),)))
        {'weight': tensor([[ True,  True, False, False]])}
    """
    return life_of(module, "masks").masks()


def sites(module: nn.Module) -> tuple[Site, ...]:
    """The masked weights, or groups of units, with granularity, costs and bounds.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), example_inputs=(torch.ones(3, 4),))
        >>> [(site.name, str(site.costs["macs"])) for site in sites(sparse)]
        [('weight', 'batch')]
    """
    parts = life_of(module, "sites").parts
    return tuple(site for part in parts for site in part.sites())


def graphs(module: nn.Module) -> dict[str, fx.GraphModule]:
    """The rewritten graphs by module path; the key "" is the whole model.

    A module whose modes run different code has two, under ``path:train`` and
    ``path:eval``. The graph of a second call is under ``:2``.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), example_inputs=(torch.ones(3, 4),))
        >>> "masked_weight" in graphs(sparse)[""].code
        True
    """
    root = unwrapped(module)
    life_of(root, "graphs")
    found = {
        path: program
        for path, owner in root.named_modules()
        if (program := program_of(owner)) is not None
    }
    return by_path(root, found)


def report(module: nn.Module) -> Report:
    """What is kept where, at what cost, and what is not masked and why.

    Example:
        >>> sparse = transform(nn.Linear(4, 2), budget=0.5,
        ...                    example_inputs=(torch.ones(1, 4),))
        >>> report(sparse).to_dict()["budgets"]
        {'macs': {'limit': 4, 'kept': 4, 'met': True}}
    """
    return life_of(module, "report").report()


def finalize(module: nn.Module) -> nn.Module:
    """The plain model: original classes and keys, masks baked into the weights.

    Dropped weights are exactly zero, kept ones carry their soft mask. The result
    shares nothing with ``module``, which can no longer be trained. Where ranks share
    the model, all must call it, and each gets the whole.

    Raises:
        MaskError: the module is not transformed, or has been finalized already.

    Example:
        >>> net = nn.Linear(4, 2, bias=False)
        >>> dense = finalize(transform(net, budget=0.5,
        ...                            example_inputs=(torch.ones(1, 4),)))
        >>> type(dense) is nn.Linear, int(dense.weight.count_nonzero())
        (True, 4)
    """
    root = unwrapped(module)
    life = life_of(root, "finalize")
    say_if_early(life)
    if life.shared():
        dense = whole_model(root, life)
    else:
        dense = duplicate(root)
        baked = life_of(dense, "finalize")
        baked.stand_alone()
        for part in baked.parts:
            part.bake()
        restore(dense)
        if baked.lesson is not None:
            baked.lesson.remove()
    life.finalized = True
    return dense
