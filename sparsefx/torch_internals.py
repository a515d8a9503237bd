"""Every private torch name the package uses, in one place.

`tests/test_torch_internals.py` names them one by one, so that an upgrade of torch that
moves one of them fails there and nowhere else.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import (
    TreeSpec,
    register_pytree_node,
    tree_flatten,
    tree_unflatten,
)

__all__ = [
    "FakeTensor",
    "FakeTensorMode",
    "TorchFunctionMode",
    "TreeSpec",
    "after_backward",
    "aoti_package",
    "backward_number",
    "fake_input",
    "fake_mode",
    "has_fixed_sizes",
    "int8_linear",
    "int8_packed",
    "is_compiling",
    "is_exporting",
    "is_plain",
    "python_kernels",
    "register_node",
    "saves_by_hooks",
    "scaler_skipped",
    "set_hints",
    "silence_sparse",
    "transforming",
    "tree_flatten",
    "tree_unflatten",
]


_PLAIN = (torch.nn.Parameter, Tensor)


def fake_mode() -> FakeTensorMode:
    """A mode in which tensors have shapes and types but no data."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # loads sympy

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    # To build an answer from its cache takes longer than to find it, with symbols.
    mode.cache_enabled = False
    return mode


def fake_input(mode: FakeTensorMode, value: Tensor, dynamic: Sequence[bool]) -> Tensor:
    """A fake twin of ``value`` whose ``dynamic`` dimensions are symbols."""
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        StatelessSymbolicContext,
    )

    sizes = [DimDynamic.DYNAMIC if free else DimDynamic.STATIC for free in dynamic]
    context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
    return cast(
        Tensor,
        mode.from_tensor(value, static_shapes=False, symbolic_context=context),
    )


def python_kernels() -> AbstractContextManager[Any]:
    """Where fake tensors run, calls use kernels in Python where torch has some.

    Those keep symbolic sizes symbolic. Kernels in C++ may ask a size for its number,
    and then it is that number for good: those of ``matmul`` before torch 2.12, of
    ``interpolate`` in any version. ``torch.compile`` runs its fake tensors likewise.
    """
    enable = getattr(torch._C, "_EnablePythonDispatcher", nullcontext)
    return cast(AbstractContextManager[Any], enable())


def has_fixed_sizes(mode: FakeTensorMode) -> bool:
    """Whether a call on the mode's tensors has made a symbolic size a number.

    Sizes that data decide, of a mask that is a constant say, may well be one.
    """
    env = mode.shape_env
    return env is not None and any(
        value.is_number and not env.is_unbacked_symint(symbol)
        for symbol, value in env.replacements.items()
    )


def after_backward(callback: Callable[[], None]) -> None:
    """Runs ``callback`` when the current backward pass has ended.

    The callback is queued twice over: the first time it only queues itself
    again, so that it runs after callbacks queued by gradient reducers (DDP
    copies its buckets back in one of those).
    """
    engine = cast(Any, Variable)._execution_engine

    def again() -> None:
        engine.queue_callback(callback)

    engine.queue_callback(again)


def will_reach(leaf: Tensor) -> bool:
    """Whether the backward pass that is under way goes on to a leaf's gradient."""
    none = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    included = torch._C._dispatch_tls_local_include_set()
    # operators of our own run where autograd no longer looks
    with torch._C._ForceDispatchKeyGuard(included, none), torch.enable_grad():
        node = torch.autograd.graph._get_grad_fn_or_grad_acc(leaf)
    return bool(torch._C._will_engine_execute_node(node))


def backward_number() -> int:
    """A number that names the running backward pass; -1 outside of one."""
    return int(torch._C._current_graph_task_id())


def tracks_gradients(tensor: Tensor) -> bool:
    """Whether `torch.func` differentiates with respect to a tensor.

    Example:
        >>> seen = []
        >>> _ = torch.func.grad(lambda x: seen.append(tracks_gradients(x)) or x)(
        ...     torch.tensor(1.0)
        ... )
        >>> seen, tracks_gradients(torch.tensor(1.0))
        ([True], False)
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def set_hints(value: Any, numbers: Mapping[Any, int]) -> None:
    """Makes a fake tensor's symbolic sizes speak of another example.

    Args:
        value: a fake tensor; anything else is passed over.
        numbers: the example's numbers by symbol.
    """
    if not isinstance(value, Tensor):
        return
    for size in value.shape:
        if isinstance(size, torch.SymInt):
            size.node._hint = int(size.node.expr.subs(numbers))


def saves_by_hooks() -> bool:
    """Whether something (activation checkpointing) intercepts saved activations."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def scaler_skipped(scaler: Any, optimizer: torch.optim.Optimizer) -> bool | None:
    """Whether a gradient scaler has skipped the optimizer's last step.

    None where it has taken none since its last update, with which it forgets them.
    """
    from torch.amp.grad_scaler import OptState

    known = scaler._per_optimizer_states.get(id(optimizer), {})
    if known.get("stage") is not OptState.STEPPED:
        return None
    return any(bool(found) for found in known["found_inf_per_device"].values())


def is_compiling() -> bool:
    """Whether `torch.compile` is tracing the caller."""
    return bool(torch.compiler.is_compiling())


def is_exporting() -> bool:
    """Whether `torch.export` is tracing the caller.

    Read from where `torch.compiler.is_exporting` has it: before torch 2.12 compilers
    take that function's answer to be yes.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return bool(torch.compiler.is_exporting() if flag is None else flag)


def is_traced() -> bool:
    """Whether `torch.jit.trace` is running."""
    return torch._C._get_tracing_state() is not None


def is_plain(*tensors: Tensor) -> bool:
    """Whether kernels may read the tensors' memory, and nobody needs to see it done.

    Not so for subclasses, under `torch.func`, under modes that record operators, and
    while a tracer runs.
    """
    if is_compiling() or torch._C._len_torch_dispatch_stack() or is_traced():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    for x in tensors:  # not `all`: this is asked at every read of a masked weight
        if type(x) not in _PLAIN or wrapped(x):
            return False
    return True


@functools.cache
def silence_sparse() -> None:
    """Makes torch say once, to nobody, that sparse tensors are new and unchecked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.ones(1, 1).to_sparse_csr()
        parts = one.crow_indices(), one.col_indices(), one.values()
        torch.sparse_csr_tensor(*parts, check_invariants=False)


def register_node(
    kind: type, flatten: Callable[[Any], Any], unflatten: Callable[[Any, Any], Any]
) -> None:
    """Makes a class of our own a container for torch's trees."""
    register_pytree_node(kind, flatten, unflatten)


def transforming() -> bool:
    """Whether `torch.func` (vmap, grad, jvp) is transforming the caller."""
    return bool(torch._C._are_functorch_transforms_active())


def as_kind(tensor: Tensor, kind: type[Tensor]) -> Tensor:
    """The same values as a tensor of a class; no function mode sees it done."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(kind)


def aoti_package(program: torch.export.ExportedProgram, path: str) -> str:
    """Compiles an exported program into a package of AOTInductor."""
    import torch._inductor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own functions
        made: str = torch._inductor.aoti_compile_and_package(program, package_path=path)
    return made


def int8_packed(weight_NK: Tensor, scale_N: Tensor, bias: Tensor | None) -> Any:
    """A weight as torch's dynamically quantised linear layer takes it.

    Raises:
        RuntimeError: this torch, or its backend, has none.

    Example:
        >>> weight = torch.tensor([[100, -50]], dtype=torch.int8)
        >>> packed = int8_packed(weight, torch.tensor([0.01]), None)
        >>> int8_linear(torch.tensor([[1.0, 2.0]]), packed).abs() < 0.02
        tensor([[True]])
    """
    zeros = torch.zeros_like(scale_N, dtype=torch.int64)
    make: Any = getattr(torch, "_make_per_channel_quantized_tensor", None)
    prepack = getattr(torch.ops.quantized, "linear_prepack", None)
    if make is None or prepack is None:
        raise RuntimeError("this torch has no quantised linear layer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that quantised tensors will go
        return prepack(make(weight_NK, scale_N.double(), zeros, 0), bias)


def int8_linear(x_MK: Tensor, packed: Any) -> Tensor:
    """What it computes; activations are rounded to 7 bits, as sums of two need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y: Tensor = torch.ops.quantized.linear_dynamic(x_MK, packed, True)
    return y


def hint(size: int | torch.SymInt) -> int:
    """The example's number for a size that may be symbolic.

    Example:
        >>> hint(7)
        7
    """
    known: Any = size.node.hint if isinstance(size, torch.SymInt) else size
    return int(known)
