"""Records one forward call of a module as an fx graph.

The module's own Python runs once, on fake tensors whose batch dimension is a
symbol, under a torch-function mode that writes down every call. Parameters and
buffers become ``get_attr`` nodes under their original names, batch sizes become
``size`` nodes, batch norms and dropouts stay ``call_module`` nodes (they follow
their own ``training`` flag). Whatever would be baked in silently (a value, a
change of gradient mode, a written attribute) is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.torch_internals import (
    FakeTensor,
    TorchFunctionMode,
    TreeSpec,
    fake_mode,
    saves_by_hooks,
    tree_flatten,
    tree_unflatten,
)
from sparsefx.tracing.error_location import cause_of
from sparsefx.tracing.gradient_regions import enter_region, leave_region
from sparsefx.tracing.interception import applied, quietly, told
from sparsefx.tracing.node_spelling import effect, is_requires_grad, spell
from sparsefx.tracing.node_values import NodeValues
from sparsefx.tracing.object_trees import box
from sparsefx.tracing.preserve import in_eval
from sparsefx.tracing.shape_rules import described
from sparsefx.tracing.symbolic_inputs import on_fakes, symbolic_inputs

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded call.

    Attributes:
        graph: nodes in execution order; ``node.meta["val"]`` is the fake value,
            ``node.meta["module"]`` the path of the module that ran it.
        inputs: how the call's arguments flatten; tensor leaves are placeholders.
        output: how the graph's flat output becomes the module's.
        guards: relations the batch symbol must satisfy.
        symbol: the batch symbol, or None if every size is fixed.
    """

    graph: fx.Graph
    inputs: TreeSpec
    output: TreeSpec
    guards: tuple[sympy.Basic, ...]
    symbol: sympy.Symbol | None


def is_leaf(module: nn.Module) -> bool:
    """Modules recorded as one ``call_module``: their mode changes their structure.

    Example:
        >>> is_leaf(nn.BatchNorm1d(2)), is_leaf(nn.Linear(2, 2))
        (True, False)
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    if isinstance(module, kinds):
        return True
    empty = next(module.parameters(), None) is None and not module._modules
    name = type(module).__name__.lower()
    return empty and ("drop" in name or "stochasticdepth" in name)


class _Recorder(TorchFunctionMode):
    """Writes down the calls made while it is active."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.fake = fake_mode()
        self.values = NodeValues(root)
        self.paths = {id(module): path for path, module in root.named_modules()}
        self.paused = False
        self.modes = [_modes()]
        self.regions: list[tuple[object, fx.Node]] = []

    def guards(self) -> list[Any]:
        env = self.fake.shape_env
        assert env is not None
        return env.guards

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__set__" and is_requires_grad(func):
            func, name, args = Tensor.requires_grad_, "requires_grad_", args
        refused = effect(func, name)
        if refused:
            raise CaptureError(f"{self.values.where()} {refused}")
        asked = len(self.guards())
        out = quietly(self, described(func, args) or func, *args, **kwargs)
        del self.guards()[asked:]  # asked by torch's kernels, not by the model
        leaves, _ = tree_flatten(out)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors and (out is not None or name == "__get__"):
            return out  # a question about shape or type: nothing to record
        self.check_modes()
        if any(not isinstance(leaf, FakeTensor) for leaf in tensors):
            known = all(id(leaf) in self.values.names for leaf in tensors)
            if known and name in ("__get__", "requires_grad_"):
                return out
            if not known:
                raise CaptureError(
                    f"{self.values.where()} makes real data with {name}()"
                )
        target, op, call_args = spell(func, name, args, bool(kwargs))
        self.write(op, target, call_args, kwargs, out)
        return out

    def write(self, op: str, target: Any, args: Any, kwargs: Any, out: Any) -> fx.Node:
        argument = self.values.argument
        node = self.values.graph.create_node(
            op,
            target,
            tuple(argument(value) for value in args),
            {key: argument(value) for key, value in kwargs.items()},
        )
        return self.values.keep(out, node)

    def check_modes(self) -> None:
        """Refuses what changes how later calls run and leaves no trace in a graph."""
        where = self.values.where()
        if _modes() != self.modes[-1]:
            raise CaptureError(f"{where} switches gradients or autocast by itself")
        if saves_by_hooks():
            raise CaptureError(
                f"{where} saves activations by hooks (activation checkpointing or "
                "offloading), which its Python must do"
            )

    # -- calls that are no torch functions, see `sparsefx.tracing.interception`
    # ------------

    def module(
        self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        path = self.paths.get(id(module))
        if path is None:
            return original(module, *args, **kwargs)
        if is_leaf(module):
            return self.leaf_call(original, module, args, kwargs)
        self.values.stack.append(path)
        try:
            return original(module, *args, **kwargs)
        finally:
            self.values.stack.pop()

    def function(
        self, kind: Any, original: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self.check_modes()
        out = quietly(self, original, *args, **kwargs)
        self.write("call_function", applied(kind), args, kwargs, out)
        return out

    def enter(self, region: object, kind: str, options: tuple[Any, ...]) -> None:
        node = self.values.graph.call_function(enter_region, (kind, *options))
        node.meta["module"] = self.values.stack[-1]
        self.regions.append((region, node))
        self.modes.append(_modes())
        self.values.enter()

    def leave(self, region: object) -> None:
        if not self.regions or self.regions[-1][0] is not region:
            raise CaptureError(
                f"{self.values.where()} leaves a region of another gradient or "
                "autocast mode that it has not entered last"
            )
        entered = self.regions.pop()[1]
        node = self.values.graph.call_function(leave_region, (entered,))
        node.meta["module"] = self.values.stack[-1]
        self.modes.pop()
        self.values.leave()

    def leaf_call(
        self, original: Any, module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        self.check_modes()
        before = [self.values.argument(value) for value in (args, kwargs)]
        with in_eval(module):  # only the shape is needed, the same in both modes
            out = quietly(self, original, module, *args, **kwargs)
            if isinstance(out, Tensor) and any(out is a for a in args):
                out = out.clone() if not getattr(module, "inplace", False) else out
        path = self.paths[id(module)]
        node = self.values.graph.create_node("call_module", path, *before)
        node.meta["module"] = path
        self.values.keep(out, node)
        return out


def _modes() -> tuple[Any, ...]:
    """All that decides, beside its arguments, what a torch function does."""
    kinds = ("cpu", "cuda")
    autocast = tuple(
        (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in kinds
    )
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def record(
    root: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    dynamic_batch: bool = True,
) -> Recording:
    """Runs ``root(*args, **kwargs)`` on fake tensors and writes the calls down.

    Args:
        root: the module, in the mode (train or eval) to record.
        args: positional example inputs, any nesting of containers.
        kwargs: keyword example inputs.
        dynamic_batch: make the tensors' common first size, of at least 2, a symbol.

    Raises:
        CaptureError: the call cannot be written down faithfully; says where, why.

    Example:
        >>> found = record(nn.Linear(4, 3), (torch.ones(2, 4),), {})
        >>> [node.name for node in found.graph.nodes]
        ['x', 'weight', 'bias', 'linear', 'output']
    """
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    recorder = _Recorder(root)
    values = recorder.values
    modes = torch.set_grad_enabled(torch.is_grad_enabled())  # put back after it
    try:
        fakes = symbolic_inputs(recorder.fake, values, leaves, dynamic_batch)
        fake_args, fake_kwargs = tree_unflatten(fakes, spec)
        with modes, on_fakes(recorder.fake), told(recorder), recorder:
            out = root.forward(*fake_args, **fake_kwargs)  # its own hooks run outside
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{values.where()} cannot run on symbolic inputs: {cause_of(error)}"
        ) from error
    if recorder.regions:
        raise CaptureError(
            f"{values.where()} switches gradients or autocast and not back"
        )
    # an object that a module holds is no new one for every call
    held = {id(value) for m in root.modules() for value in vars(m).values()}
    out_leaves, out_spec = tree_flatten(box(out, held))
    use = "returns {}, which is no tensor and no known container"
    outputs = [values.argument(leaf, use) for leaf in out_leaves]
    values.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    guards = tuple(guard.expr for guard in recorder.guards())
    env = recorder.fake.shape_env
    symbols = [s for s in values.sizes if env and s not in env.replacements]
    symbol = symbols[0] if symbols else None
    return Recording(values.graph, spec, out_spec, guards, symbol)
