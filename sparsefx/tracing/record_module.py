"""One module to one program: recorded in both modes, joined, and compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparsefx.errors import CaptureError
from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.example_calls import Call, doubled
from sparsefx.tracing.guards import Noted, hooks_of, noted
from sparsefx.tracing.lru_caches import forgotten
from sparsefx.tracing.merge_modes import merge_modes
from sparsefx.tracing.preserve import (
    attribute_table,
    host_random,
    preserved,
    written_attributes,
)
from sparsefx.tracing.program import Program
from sparsefx.tracing.recorder import Recording, record
from sparsefx.tracing.symbolic_inputs import batch_size
from sparsefx.tracing.verify import check, takes_other_batches, warm


def capture_module(
    module: nn.Module, call: Call, *, verify: bool = True, caches: Sequence[Any] = ()
) -> Program:
    """One module as one graph valid in both modes.

    Args:
        module: it is left as it was.
        call: an example of what it is called with.
        verify: compare the graph with the module.
        caches: functions whose kept tensors are to be made anew in the graph.

    Raises:
        CaptureError: it cannot be recorded whole, or the graph differs from it.
    """
    for path, inner in list(module.named_modules())[1:]:
        if any(hooks_of(inner)):
            raise CaptureError(f"submodule {path!r} has hooks, whose Python must run")
    reason = ""
    for dynamic in (True, False):
        tried = doubled(call) if dynamic else call
        try:
            program = _program(module, *tried, dynamic, verify, caches)
        except CaptureError as error:
            if str(error) != reason:
                fixed = "; with a fixed batch, " if reason else ""
                reason = f"{reason}{fixed}{error}"
            continue
        if tried is not call:
            program.speak_of(1)
        if not dynamic and takes_other_batches(module, call):
            for _, part in program.parts():
                part.one_batch = reason
                part.rebind()
        return program
    raise CaptureError(reason)


def _program(
    module: nn.Module,
    args: Any,
    kwargs: Any,
    dynamic: bool,
    verify: bool,
    caches: Sequence[Any],
) -> Program:
    records: dict[bool, Recording] = {}
    reasons: dict[bool, str] = {}
    for training in (True, False):
        try:
            with preserved(module), torch.enable_grad():
                module.train(training)  # may clear caches
                warm(module, args, kwargs)
                with forgotten(caches), _watched(module):
                    found = record(module, args, kwargs, dynamic_batch=dynamic)
            records[training] = found
        except CaptureError as error:
            reasons[training] = str(error)
    if not records or (reasons and False in reasons):
        raise CaptureError(reasons[False])
    leaves = tree_flatten((args, kwargs))[0]
    program = _joined(records.get(True), records[False], leaves, noted(module))
    program.reason = f"in train mode, {reasons[True]}" if reasons else ""
    wrong = check(program, module, args, kwargs) if verify else None
    if wrong:
        raise CaptureError(f"the recorded graph is not the module: {wrong}")
    return program


def _joined(
    train: Recording | None, evaluation: Recording, leaves: list[Any], attributes: Noted
) -> Program:
    """One program for both modes; two graphs where the modes run different code."""

    def made(part: Recording, mode: bool | None, *more: Recording) -> Program:
        return Program(
            part.graph,
            part.inputs,
            leaves,
            part.output,
            [guard for found in (part, *more) for guard in found.guards],
            batch=(part.symbol, batch_size(leaves)),
            mode=mode,
            attributes=attributes,
        )

    if train is None:
        return made(evaluation, False)
    same = train.output == evaluation.output and train.inputs == evaluation.inputs
    if same and merge_modes(train.graph, evaluation.graph) is None:
        return made(train, None, evaluation)
    program, twin = made(train, True), made(evaluation, False)
    program.twin = twin
    return program


@contextmanager
def _watched(module: nn.Module) -> Iterator[None]:
    """Refuses what a graph would not do again: writing attributes, drawing numbers."""
    before = {path: attribute_table(m) for path, m in module.named_modules()}
    random = host_random()
    yield
    for name, state in host_random().items():
        if state != random.get(name, state):  # it may just have been imported
            raise CaptureError(f"forward draws random numbers from {name}")
    written = written_attributes(module, before)
    if written:
        raise CaptureError(f"forward writes {', '.join(written[:4])}")
