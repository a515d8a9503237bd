"""Any module to graphs: whole where possible, else its largest capturable parts.

Each part is recorded in train and in eval mode on symbolic inputs, merged into one
graph, and compared with the module's own Python before it is used. What cannot be
recorded stays Python, with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

import torch
from torch import fx, nn

from sparsefx.errors import CaptureError
from sparsefx.tracing.example_calls import Call, as_calls, observe
from sparsefx.tracing.lru_caches import function_caches
from sparsefx.tracing.observed_uses import Observed, watch
from sparsefx.tracing.preserve import preserved
from sparsefx.tracing.program import Program
from sparsefx.tracing.record_module import capture_module


@dataclass(frozen=True, slots=True)
class Capture:
    """What was recorded of a model.

    Attributes:
        root: the model.
        programs: recorded graphs by module path ("" is the whole model).
        reasons: why a path could not be recorded, by path.
        observed: how weights that no graph shows were used on the example inputs.
        inputs: the example inputs; None if there were none, and no sizes are known.

    Example:
        >>> print(capture(nn.Linear(4, 2), (torch.ones(3, 4),)))
        whole model: 5 nodes
    """

    root: nn.Module
    programs: Mapping[str, Program]
    reasons: Mapping[str, str] = field(default_factory=dict)
    observed: Mapping[str, Observed] = field(default_factory=dict)
    inputs: Any = None

    @property
    def graphs(self) -> dict[str, fx.GraphModule]:
        """The graphs by module path, for reading."""
        return by_path(self.root, self.programs)

    @property
    def priced(self) -> dict[str, fx.GraphModule]:
        """Graphs that cover each call once: of the first call, of eval if not of both.

        Where a module has a graph in eval only, those of its parts are left out, but
        for parts that only train mode uses. There are none if no sizes are known.
        """
        found: dict[str, fx.GraphModule] = {}
        if self.inputs is None:
            return found
        for path, program in self.programs.items():
            owner = self.root.get_submodule(path)
            outer = {p: self.programs[p] for p in _around(path) if p in self.programs}
            paid = _shown(self.root, outer)
            if not any(id(value) in paid for value in owner.parameters()):
                found[path] = list(program.modes())[-1][1].module(owner)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The coverage as plain values: a row for every parameter, and the reasons.

        ``masked`` is ``"graph"`` where a graph reads the parameter and ``"property"``
        where only Python does; ``reason`` says why it is not in a graph.
        """
        shown = _shown(self.root, self.programs)
        rows = []
        for name, value in self.root.named_parameters():
            path = name.rpartition(".")[0]
            seen = id(value) in shown
            why = "" if seen else _reason(path, self.reasons)
            kind = "graph" if seen else "property"
            rows.append(
                {"parameter": name, "module": path, "masked": kind, "reason": why}
            )
        return {"coverage": rows, "reasons": dict(self.reasons)}

    @property
    def whole(self) -> bool:
        """Whether the model is one graph, for every call that was given."""
        failed = any(not path or path[0] == ":" for path in self.reasons)
        return "" in self.programs and not failed

    def __str__(self) -> str:
        lines = [
            f"{path or 'whole model'}: {len(graph.graph.nodes)} nodes"
            for path, graph in self.graphs.items()
        ]
        lines += [
            f"{path or 'whole model'}: at this batch size only, because {why}"
            for path, program in self.programs.items()
            if (why := program.one_batch)
        ]
        lines += [
            f"{path or 'root'}: Python, because {why}"
            for path, why in self.reasons.items()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _around(path: str) -> Iterator[str]:
    """The paths of the modules that contain this one, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def by_path(
    root: nn.Module, programs: Mapping[str, Program]
) -> dict[str, fx.GraphModule]:
    """Graphs by module path; two of one module get ``:train`` and ``:eval``.

    Those of a second call get ``:2``.
    """
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
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, or a
            list of such, each a call of another structure; costs are those of the
            first. With None only single layers are recorded.
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
    call, *more = as_calls(example_inputs)
    programs: dict[str, Program] = {}
    reasons: dict[str, str] = {}
    with preserved(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own; they come when it is used
        calls = observe(model, call)
        one = partial(capture_module, verify=verify, caches=function_caches())
        _descend(model, "", calls, one, programs, reasons)
        for number, other in enumerate(more, 2):
            _add_call(model, number, observe(model, other)[""], one, programs, reasons)
        observed = _observed(model, call, programs)
    return Capture(model, programs, reasons, observed, example_inputs)


def _shown(root: nn.Module, programs: Mapping[str, Program]) -> set[int]:
    """Identities of the parameters that a graph reads."""
    found = set()
    for path, program in programs.items():
        read = {
            node.target
            for _, part in program.parts()
            for node in part.graph.nodes
            if node.op == "get_attr"
        }
        owner = root.get_submodule(path)
        for name, value in owner.named_parameters(remove_duplicate=False):
            if name in read:
                found.add(id(value))
    return found


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """Why a module has no graph, or the nearest module around it."""
    places = (path, *_around(path))
    return next(
        (reasons[p] for p in places if p in reasons), "no recorded call reads it"
    )


def _observed(
    model: nn.Module, call: Call, programs: Mapping[str, Program]
) -> Mapping[str, Observed]:
    """Runs the model once more if weights are left that no graph shows."""
    shown = _shown(model, programs)
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
    found: Mapping[str, Observed] = seen.found
    return found


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


def _descend(
    model: nn.Module,
    path: str,
    calls: Mapping[str, Call],
    one: Callable[[nn.Module, Call], Program],
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
            found = one(module, calls[path])
            programs[path] = found
            if not found.reason:
                return
            reasons[path] = found.reason  # its parts have graphs for that mode
        except CaptureError as error:
            reasons[path] = str(error)
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if inner not in programs and child is not module:
            _descend(model, inner, calls, one, programs, reasons)


def _add_call(
    model: nn.Module,
    number: int,
    call: Call,
    one: Callable[[nn.Module, Call], Program],
    programs: Mapping[str, Program],
    reasons: dict[str, str],
) -> None:
    """Records one more call of the whole model; without a graph it runs as Python."""
    try:
        if "" not in programs:
            raise CaptureError("the first call has no graph")
        found = one(model, call)
        programs[""].add_call(found)
        if found.reason:
            reasons[f":{number}"] = found.reason
    except CaptureError as error:
        reasons[f":{number}"] = str(error)


_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def _capture_layers(model: nn.Module) -> Capture:
    """Without inputs: each layer that owns a weight is a graph of its own."""
    programs: dict[str, Program] = {}
    for path, module in model.named_modules():
        if isinstance(module, _LAYERS):
            try:
                graph = fx.symbolic_trace(module).graph
            except Exception:  # a subclass with its own Python stays Python
                continue
            programs[path] = Program(graph, None, (), None)
    why = "there are no example inputs to record it with"
    return Capture(model, programs, {} if "" in programs else {"": why})
