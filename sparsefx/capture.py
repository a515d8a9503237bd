"""Any module to graphs: whole where possible, else its largest capturable parts.

Each part is recorded in train and in eval mode on symbolic inputs, merged into one
graph, and compared with the module's own Python before it is used. What cannot be
recorded stays Python, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.guards import Noted, hooks_of, noted
from sparsefx.merge import merge_modes
from sparsefx.observed_uses import Observed, watch
from sparsefx.preserve import attribute_table, preserved, written_attributes
from sparsefx.private import tree_flatten, tree_unflatten
from sparsefx.program import Program
from sparsefx.recorder import Recording, batch_size, record
from sparsefx.verify import check

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Capture:
    """What was recorded of a model.

    Attributes:
        root: the model.
        programs: recorded graphs by module path ("" is the whole model).
        reasons: why a path could not be recorded, by path.
        observed: how weights that no graph shows were used on the example inputs.
    """

    root: nn.Module
    programs: Mapping[str, Program]
    reasons: Mapping[str, str] = field(default_factory=dict)
    observed: Mapping[str, Observed] = field(default_factory=dict)

    @property
    def graphs(self) -> dict[str, fx.GraphModule]:
        """The graphs by module path, for reading."""
        return by_path(self.root, self.programs)

    @property
    def priced(self) -> dict[str, fx.GraphModule]:
        """One graph a module path: that of eval mode where there are two."""
        return {
            path: list(program.parts())[-1][1].module(self.root.get_submodule(path))
            for path, program in self.programs.items()
        }

    @property
    def whole(self) -> bool:
        """Whether the model is one graph."""
        return "" in self.programs and not self.programs[""].reason

    def __str__(self) -> str:
        lines = [
            f"{path or 'whole model'}: {len(graph.graph.nodes)} nodes"
            for path, graph in self.graphs.items()
        ]
        lines += [
            f"{path or 'root'}: Python, because {why}"
            for path, why in self.reasons.items()
        ]
        return "\n".join(lines)


def by_path(
    root: nn.Module, programs: Mapping[str, Program]
) -> dict[str, fx.GraphModule]:
    """Graphs by module path; two graphs of one module get ``:train`` and ``:eval``."""
    return {
        f"{path}:{mode}" if mode else path: part.module(root.get_submodule(path))
        for path, program in programs.items()
        for mode, part in program.parts()
    }


def capture(
    model: nn.Module, example_inputs: Any = None, *, verify: bool = True
) -> Capture:
    """Records ``model`` as fx graphs; the model is left as it was.

    Args:
        model: any module.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs; with
            None only single layers are recorded.
        verify: compare each graph with the module before accepting it.

    Raises:
        CaptureError: the model cannot run on ``example_inputs``, is not built yet, or
            has a part that ``torch.jit`` has compiled.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = capture(net, (torch.randn(3, 4),))
        >>> found.whole, len(found.graphs[""].graph.nodes)
        (True, 9)
    """
    _refuse_parts(model)
    if example_inputs is None:
        return _capture_layers(model)
    call = as_call(example_inputs)
    programs: dict[str, Program] = {}
    reasons: dict[str, str] = {}
    with preserved(model):
        calls = observe(model, call)
        _descend(model, "", calls, verify, programs, reasons)
        observed = _observed(model, call, programs)
    return Capture(model, programs, reasons, observed)


def _observed(
    model: nn.Module, call: Call, programs: Mapping[str, Program]
) -> Mapping[str, Observed]:
    """Runs the model once more if weights are left that no graph shows."""
    shown = {
        id(value)
        for path, program in programs.items()
        for name, value in model.get_submodule(path).named_parameters()
        if any(
            node.op == "get_attr" and node.target == name
            for _, part in program.parts()
            for node in part.graph.nodes
        )
    }
    left = [
        name
        for name, value in model.named_parameters()
        if value.ndim >= 2 and value.is_floating_point() and id(value) not in shown
    ]
    if not left:
        return {}
    model.eval()
    with preserved(model), torch.no_grad(), watch(model, left) as seen:
        model(*call[0], **call[1])
    return seen.found


def _refuse_parts(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"submodule {path!r} is scripted by torch.jit: its weights can be "
                "neither read nor masked; give the model as it was before scripting, "
                "and script what finalize returns"
            )
        for name, value in module._parameters.items():
            if value is not None and nn.parameter.is_lazy(value):
                raise CaptureError(
                    f"layer {path!r} is not built yet: its {name} has no shape; run "
                    "the model once on an input before"
                )


def as_call(example_inputs: Any) -> Call:
    """Example inputs as ``(args, kwargs)``."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    raise CaptureError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tuple of "
        "positional inputs, such as (x,), or a dict of keyword inputs"
    )


def observe(model: nn.Module, call: Call) -> dict[str, Call]:
    """Runs the model once and notes the first call of every submodule."""
    seen: dict[str, Call] = {}
    handles = []
    for path, module in model.named_modules():
        if path or module._forward_pre_hooks:

            def note(_: Any, args: Any, kwargs: Any, path: str = path) -> None:
                seen.setdefault(path, _detached(args, kwargs))

            # after the module's own such hooks: a graph gets what they return
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        for training in (True, False):  # lazily built caches exist after this
            model.train(training)
            with torch.no_grad():
                try:
                    model(*call[0], **call[1])
                except Exception as error:
                    if not training:
                        raise CaptureError(_unusable(model, call, error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return {"": call} | seen


def _unusable(model: nn.Module, call: Call, error: Exception) -> str:
    shapes = [tuple(t.shape) for t in tree_flatten(call)[0] if isinstance(t, Tensor)]
    text = str(error).strip().splitlines() or [""]
    return (
        f"{type(model).__name__} does not run on the example inputs (shapes "
        f"{shapes}): {type(error).__name__}: {text[0][:300]}; give example_inputs "
        "that the model accepts, as a tuple of positional or a dict of keyword inputs"
    )


def _detached(args: Any, kwargs: Any) -> Call:
    leaves, spec = tree_flatten((args, kwargs))
    flat = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    out_args, out_kwargs = tree_unflatten(flat, spec)
    return tuple(out_args), dict(out_kwargs)


def _descend(
    model: nn.Module,
    path: str,
    calls: Mapping[str, Call],
    verify: bool,
    programs: dict[str, Program],
    reasons: dict[str, str],
) -> None:
    module = model.get_submodule(path)
    if not any(p.ndim >= 2 for p in module.parameters()):
        return
    if path not in calls:
        reasons[path] = "the example inputs never call it"
    else:
        try:
            found = capture_module(module, calls[path], verify=verify)
            programs[path] = found
            if not found.reason:
                return
            reasons[path] = found.reason  # its parts have graphs for that mode
        except CaptureError as error:
            reasons[path] = str(error)
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if inner not in programs and child is not module:
            _descend(model, inner, calls, verify, programs, reasons)


def capture_module(module: nn.Module, call: Call, *, verify: bool = True) -> Program:
    """One module as one graph valid in both modes.

    Raises:
        CaptureError: it cannot be recorded whole, or the graph differs from it.
    """
    for path, inner in list(module.named_modules())[1:]:
        if any(hooks_of(inner)):
            raise CaptureError(f"submodule {path!r} has hooks, whose Python must run")
    reason = ""
    for dynamic in (True, False):
        args, kwargs = _doubled(call) if dynamic else call
        try:
            program = _program(module, args, kwargs, dynamic, verify)
        except CaptureError as error:
            if str(error) != reason:
                fixed = "; with a fixed batch, " if reason else ""
                reason = f"{reason}{fixed}{error}"
            continue
        if args is not call[0]:
            program.speak_of(1)
        return program
    raise CaptureError(reason)


def _program(
    module: nn.Module, args: Any, kwargs: Any, dynamic: bool, verify: bool
) -> Program:
    records: dict[bool, Recording] = {}
    reasons: dict[bool, str] = {}
    for training in (True, False):
        try:
            with preserved(module), torch.enable_grad():
                module.train(training)  # may clear caches
                with _watched(module):
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
            symbol=part.symbol,
            batch=batch_size(leaves),
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
    """Refuses modules whose forward writes attributes: a graph would not."""
    before = {path: attribute_table(m) for path, m in module.named_modules()}
    yield
    written = written_attributes(module, before)
    if written:
        raise CaptureError(f"forward writes {', '.join(written[:4])}")


def _doubled(call: Call) -> Call:
    """The call at batch 2 if it was at batch 1: a size of 1 cannot be a symbol."""
    leaves, spec = tree_flatten(call)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return call
    flat = [
        leaf.repeat_interleave(2, 0) if isinstance(leaf, Tensor) and leaf.ndim else leaf
        for leaf in leaves
    ]
    args, kwargs = tree_unflatten(flat, spec)
    return tuple(args), dict(kwargs)


_LAYERS = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.Bilinear,
)


def _capture_layers(model: nn.Module) -> Capture:
    """Without inputs: each layer that owns a weight is a graph of its own."""
    programs: dict[str, Program] = {}
    for path, module in model.named_modules():
        if isinstance(module, _LAYERS) and not isinstance(module, nn.Bilinear):
            try:
                graph = fx.symbolic_trace(module).graph
            except Exception:  # a subclass with its own Python stays Python
                continue
            programs[path] = Program(graph, None, (), None)
    why = "there are no example inputs to record it with"
    return Capture(model, programs, {} if "" in programs else {"": why})
