"""Records one forward call of a module as an fx graph.

The module's own Python runs once, on fake tensors whose batch dimension is a
symbol, under a torch-function mode that writes down every call. Parameters and
buffers become ``get_attr`` nodes under their original names, batch sizes become
``size`` nodes, batch norms and dropouts stay ``call_module`` nodes (they follow
their own ``training`` flag). Whatever would be baked in silently (a value, a
change of gradient mode, a written attribute) is refused with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError
from sparsefx.private import (
    FakeTensor,
    TorchFunctionMode,
    TreeSpec,
    fake_input,
    fake_mode,
    tree_flatten,
    tree_unflatten,
)

_OPERATORS: dict[str, Callable[..., Any]] = {
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__matmul__": operator.matmul,
    "__pow__": operator.pow,
    "__invert__": operator.invert,
    "__neg__": operator.neg,
} | {
    f"__{name}__": getattr(operator, name)
    for name in "add sub mul truediv floordiv mod and_ or_ xor".split()
    if hasattr(operator, name)
}
_REFLECTED = {
    f"__r{name}__": _OPERATORS[f"__{name}__"]
    for name in "add sub mul truediv floordiv mod pow matmul".split()
}
_INFIX = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "matmul": operator.matmul,
}
_SYMPY_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "PowByNatural": operator.pow,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": max,
    "Min": min,
}


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
    """Modules recorded as one ``call_module``: their mode changes their structure."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    if isinstance(module, kinds):
        return True
    empty = next(module.parameters(), None) is None and not module._modules
    name = type(module).__name__.lower()
    return empty and ("drop" in name or "stochasticdepth" in name)


class _Recorder(TorchFunctionMode):
    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.fake = fake_mode()
        self.graph = fx.Graph()
        self.paths = {id(module): path for path, module in root.named_modules()}
        self.names: dict[int, str] = {}
        for path, module in reversed(list(root.named_modules())):
            dot = f"{path}." if path else ""
            tensors = {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}
            for name, value in tensors.items():
                self.names[id(value)] = dot + name
        for name, tensor in [*root.named_buffers(), *root.named_parameters()]:
            self.names[id(tensor)] = name
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[Any] = []  # ids stay unique while values live
        self.sizes: dict[sympy.Symbol, tuple[fx.Node, int]] = {}
        self.exprs: dict[sympy.Basic, fx.Node] = {}
        self.stack = [""]
        self.paused = False
        self.grad = torch.is_grad_enabled()
        self.autocast = _autocast_state()

    def node_of(self, value: Tensor) -> fx.Node:
        node = self.nodes.get(id(value))
        if node is not None:
            return node
        name = self.names.get(id(value))
        if name is None:
            raise CaptureError(
                f"{self.where()} uses a tensor of shape {tuple(value.shape)} that is "
                "neither an input, a parameter, a buffer nor an attribute of a module"
            )
        node = self.graph.create_node("get_attr", name)
        return self.keep(value, node)

    def keep(self, value: Any, node: fx.Node) -> fx.Node:
        node.meta.setdefault("module", self.stack[-1])
        node.meta["val"] = value
        if isinstance(value, Tensor):
            self.nodes[id(value)] = node
            self.alive.append(value)
        elif isinstance(value, (tuple, list)):
            for index, item in enumerate(value):
                leaves, _ = tree_flatten(item)
                if any(isinstance(leaf, Tensor) for leaf in leaves):
                    args = (node, index)
                    part = self.graph.call_function(operator.getitem, args)
                    self.keep(item, part)
        return node

    def where(self) -> str:
        return f"module {self.stack[-1]!r}" if self.stack[-1] else "the root module"

    def argument(self, value: Any) -> Any:
        """A call's argument with tensors and symbolic sizes replaced by nodes."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.expression(sympy.sympify(value.node.expr))
        if isinstance(value, (tuple, list)):
            items = [self.argument(item) for item in value]
            if hasattr(value, "_fields"):
                return type(value)(*items)
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            bounds = (value.start, value.stop, value.step)
            return slice(*(self.argument(bound) for bound in bounds))
        if value is None or value is Ellipsis or isinstance(value, _CONSTANTS):
            return value
        raise CaptureError(
            f"{self.where()} passes a {type(value).__name__} to a torch function"
        )

    def expression(self, expr: Any) -> Any:
        """Nodes that compute a symbolic size from the inputs' sizes."""
        if expr.is_Integer:
            return int(expr)
        if expr.is_number:
            return float(expr)
        if expr in self.exprs:
            return self.exprs[expr]
        if expr.is_Symbol:
            tensor, dim = self.sizes[expr]
            node = self.graph.call_method("size", (tensor, dim))
        else:
            function = _SYMPY_OPERATORS.get(type(expr).__name__)
            if function is None:
                raise CaptureError(f"{self.where()} computes the size {expr}")
            args = [self.expression(arg) for arg in expr.args]
            node = self.graph.call_function(function, (args[0], args[1]))
            for arg in args[2:]:
                node = self.graph.call_function(function, (node, arg))
        node.meta["module"] = self.stack[-1]
        self.exprs[expr] = node
        return node

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
        self.refuse(func, name)
        asked = len(self.guards())
        out = func(*args, **kwargs)
        del self.guards()[asked:]  # asked by torch's kernels, not by the model
        leaves, _ = tree_flatten(out)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors and name not in ("__setitem__", "_assert", "_assert_async"):
            return out  # a question about shape or type: nothing to record
        self.check_modes()
        if any(not isinstance(leaf, FakeTensor) for leaf in tensors):
            known = all(id(leaf) in self.names for leaf in tensors)
            if known and name in ("__get__", "requires_grad_"):
                return out
            if not known:
                raise CaptureError(f"{self.where()} makes real data with {name}()")
        target, op, call_args = self.call(func, name, args, bool(kwargs))
        node = self.graph.create_node(
            op,
            target,
            tuple(self.argument(a) for a in call_args),
            {key: self.argument(value) for key, value in kwargs.items()},
        )
        self.keep(out, node)
        return out

    def guards(self) -> list[Any]:
        env = self.fake.shape_env
        assert env is not None
        return env.guards

    def refuse(self, func: Any, name: str) -> None:
        """Refuses what would leave no trace in the graph."""
        if name in ("_set_grad_enabled", "set_grad_enabled"):
            raise CaptureError(f"{self.where()} switches gradients on or off")
        if name == "backward" or func is torch.autograd.grad:
            raise CaptureError(f"{self.where()} runs backward inside forward")

    def call(
        self, func: Any, name: str, args: tuple[Any, ...], named: bool
    ) -> tuple[Any, str, tuple[Any, ...]]:
        """How fx spells a call: (target, op, arguments)."""
        if name == "__get__":
            attribute = func.__self__.__name__
            return getattr, "call_function", (args[0], attribute)
        if name in _OPERATORS and name.startswith("__"):
            return _OPERATORS[name], "call_function", args
        if name in _REFLECTED:
            return _REFLECTED[name], "call_function", (args[1], args[0])
        if name in _INFIX and len(args) == 2 and not named:
            return _INFIX[name], "call_function", args
        if getattr(Tensor, name, None) is func or _is_method(func, name):
            return name, "call_method", args
        return func, "call_function", args

    def check_modes(self) -> None:
        if torch.is_grad_enabled() != self.grad:
            raise CaptureError(f"{self.where()} switches gradients on or off")
        if _autocast_state() != self.autocast:
            raise CaptureError(f"{self.where()} switches autocast on or off")

    def leaf_call(
        self, original: Any, module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        self.check_modes()
        path = self.paths[id(module)]
        call_args = tuple(self.argument(a) for a in args)
        call_kwargs = {key: self.argument(value) for key, value in kwargs.items()}
        flags = {child: child.training for child in module.modules()}
        self.paused = True
        try:  # the fake run needs only the shape, which is the same in both modes
            for child in flags:
                child.training = False
            out = original(module, *args, **kwargs)
            if isinstance(out, Tensor) and any(out is a for a in args):
                out = out.clone() if not getattr(module, "inplace", False) else out
        finally:
            self.paused = False
            for child, flag in flags.items():
                child.training = flag
        node = self.graph.create_node("call_module", path, call_args, call_kwargs)
        node.meta["module"] = path
        self.keep(out, node)
        return out

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Keeps the path of the running module; leaves become ``call_module``."""
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self.paths.get(id(module))
            if path is None or self.paused:
                return original(module, *args, **kwargs)
            if isinstance(module, torch.jit.ScriptModule):
                raise CaptureError(f"module {path!r} is scripted by torch.jit")
            if is_leaf(module):
                return self.leaf_call(original, module, args, kwargs)
            self.stack.append(path)
            try:
                return original(module, *args, **kwargs)
            finally:
                self.stack.pop()

        nn.Module.__call__ = call
        try:
            yield
        finally:
            nn.Module.__call__ = original


_CONSTANTS = (
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)


def _autocast_state() -> tuple[Any, ...]:
    kinds = ("cpu", "cuda")
    return tuple(
        (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in kinds
    )


def _is_method(func: Any, name: str) -> bool:
    return getattr(func, "__objclass__", None) is torch._C.TensorBase or (
        getattr(func, "__qualname__", "") == f"Tensor.{name}"
    )


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
    """
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    recorder = _Recorder(root)
    mode = recorder.fake
    batch = batch_size(leaves) if dynamic_batch else None
    flat = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            flat.append(leaf)
            continue
        free = [batch is not None and leaf.ndim > 0 and leaf.shape[0] == batch]
        dims = (free + [False] * leaf.ndim)[: leaf.ndim]
        fake = fake_input(mode, leaf.detach(), dims)
        fake.requires_grad_(leaf.requires_grad)
        node = recorder.graph.placeholder(f"input_{index}" if index else "input")
        recorder.keep(fake, node)
        if dims and dims[0]:
            recorder.sizes.setdefault(fake.shape[0].node.expr, (node, 0))
        flat.append(fake)
    fake_args, fake_kwargs = tree_unflatten(flat, spec)
    try:
        with mode, recorder.following_modules(), recorder:
            out = root(*fake_args, **fake_kwargs)
    except CaptureError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        raise CaptureError(
            f"{recorder.where()} cannot run on symbolic inputs: "
            f"{type(error).__name__}: {text[0][:200]}"
        ) from error
    out_leaves, out_spec = tree_flatten(out)
    outputs = [recorder.argument(leaf) for leaf in out_leaves]
    recorder.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    env = mode.shape_env
    symbols = [s for s in recorder.sizes if env and s not in env.replacements]
    guards = tuple(guard.expr for guard in recorder.guards())
    if recorder.sizes and not symbols:
        raise CaptureError("the batch size decides which code runs")
    return Recording(
        recorder.graph, spec, out_spec, guards, symbols[0] if symbols else None
    )


def batch_size(leaves: Sequence[Any]) -> int | None:
    """The first size shared by most tensors, or None if it is below 2."""
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not sizes:
        return None
    common = max(sizes, key=sizes.count)
    return common if common >= 2 else None
