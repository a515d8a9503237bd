"""The self-check: a recorded graph must do what the module's own Python does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.example_calls import Call, doubled, resized
from sparsefx.tracing.gradient_regions import closed_on_error
from sparsefx.tracing.preserve import preserved, tensors_of
from sparsefx.tracing.program import Program
from sparsefx.tracing.symbolic_inputs import batch_size

_RTOL = 1e-5
Outcome = tuple[list[Tensor], list[Tensor], list[Tensor]]


def check(program: Program, root: nn.Module, args: Any, kwargs: Any) -> str | None:
    """Compares graph and module; returns the first difference, or None.

    Outputs, gradients and buffers of a training step, and outputs in eval, at the
    example's batch size. If that is free, the training step has two or three rows,
    which are enough, and eval also one. A graph that is only wrong at batch size 1
    keeps its use for larger ones (``program.min_batch``).
    """
    modes = {part.mode for _, part in program.parts()}
    batch = program.batch
    trials: list[tuple[bool, int | None]] = [(True, batch), (False, batch)]
    if batch is not None:
        few = batch + 1 if program.guards else 2 + (batch == 2)
        trials = [(True, few), (False, batch), (False, 1)]
    for training, size in trials:
        if None not in modes and training not in modes:
            continue  # that mode stays Python
        found = _found(program, root, (args, kwargs), training, size)
        if found == "" and size != 1:  # the module refuses that many rows
            found = _found(program, root, (args, kwargs), training, batch)
        if found and size == 1:
            for _, part in program.parts():
                part.min_batch = 2
        elif found:
            mode = "train" if training else "eval"
            there = "" if size == batch else f" at batch size {size}"
            return f"{found} differ in {mode} mode{there}"
    return None


def _found(
    program: Program, root: nn.Module, call: Call, training: bool, size: int | None
) -> str | None:
    if size != program.batch and size is not None and program.batch is not None:
        call = resized(call, program.batch, size)
    return difference(program, root, *call, training)


def difference(
    program: Program, root: nn.Module, args: Any, kwargs: Any, training: bool
) -> str | None:
    """What differs between graph and module on one call; None if nothing does.

    A call that the module itself refuses tells nothing: an empty text.
    """
    part = next(p for _, p in program.parts() if p.mode in (None, training))
    call = (args, kwargs) if part.reads_caches(root) else None
    try:
        with preserved(root):
            wanted = _outcome(root.forward, root, args, kwargs, training, call)
    except Exception:
        return ""
    with preserved(root):
        leaves = tree_flatten((args, kwargs))[0]
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        try:
            with closed_on_error():
                got = _outcome(part.module(root), root, tensors, {}, training, call)
        except Exception as error:
            return f"graph raises {type(error).__name__}, so outputs"
    for what, a, b in zip(
        ("outputs", "gradients", "buffers"), wanted, got, strict=True
    ):
        if not _close(a, b):
            return what
    return None


def takes_other_batches(root: nn.Module, call: Call) -> bool:
    """Whether the module's own Python runs on more or fewer rows than the example's.

    Example:
        >>> takes_other_batches(nn.Linear(2, 2), ((torch.ones(3, 2),), {}))
        True
    """
    call = doubled(call)
    batch = batch_size(tree_flatten(call)[0])
    if batch is None:
        return False
    calls = (resized(call, batch, size) for size in (batch + 1, 2 * batch))
    with preserved(root), torch.no_grad():
        root.eval()
        return any(_runs(root, other) for other in calls)


def _runs(root: nn.Module, call: Call) -> bool:
    try:
        root.forward(*call[0], **call[1])
    except Exception:  # whatever it refuses a size with
        return False
    return True


def warm(root: nn.Module, args: Any, kwargs: Any) -> None:
    """Runs the module's own Python once, so that its caches exist."""
    try:
        with torch.no_grad():
            root.forward(*args, **kwargs)
    except Exception:
        return  # what it refuses, its recording will say


def _outcome(
    run: Callable[..., Any],
    root: nn.Module,
    args: Any,
    kwargs: Any,
    training: bool,
    call: tuple[Any, Any] | None,
) -> Outcome:
    root.train(training)
    if call is not None:  # switching modes may have cleared caches the graph reads
        warm(root, *call)
    _seed(0)
    with torch.set_grad_enabled(training):
        outputs = tensors_of(run(*args, **kwargs))
    gradients: list[Tensor] = []
    losses = [o for o in outputs if o.requires_grad and o.is_floating_point()]
    weights = [p for p in root.parameters() if p.requires_grad]
    if training and losses and weights:
        # weights of either sign, so that a gradient cannot cancel by symmetry
        loss = sum(
            (o * torch.linspace(-1, 2, o.numel()).to(o).view(o.shape)).sum()
            for o in losses
        )
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        empty = torch.zeros(0)
        dense = [g.to_dense() if g is not None and g.is_sparse else g for g in found]
        gradients = [empty if g is None else g.detach() for g in dense]
    buffers = [b.detach().clone() for b in root.buffers()]
    return [o.detach() for o in outputs], gradients, buffers


def _seed(number: int) -> None:
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # without a device that call waits for one, and keeps where it came from
        torch.default_generator.manual_seed(number)


def _close(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    if len(wanted) != len(got):
        return False
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if torch.equal(a, b) or not a.numel():
            continue
        if not (a.is_floating_point() or a.is_complex()):
            return False
        wide = torch.promote_types(a.dtype, torch.float32)
        a, b = a.to(wide), b.to(wide)
        scale = a[a.isfinite()].abs().amax() if a.isfinite().any() else a.new_ones(())
        if not torch.allclose(
            a, b, rtol=_RTOL, atol=_RTOL * float(scale), equal_nan=True
        ):
            return False
    return True
