"""How a call that torch intercepts is spelled as a node of an fx graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_Call = Callable[..., Any]
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod")
OPERATORS: Mapping[str, _Call] = {
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__matmul__": operator.matmul,
    "__pow__": operator.pow,
    "__invert__": operator.invert,
    "__neg__": operator.neg,
    **{
        f"__{name}__": getattr(operator, name)
        for name in (*_ARITHMETIC, "and_", "or_", "xor")
    },
}
REFLECTED: Mapping[str, _Call] = {
    f"__r{name}__": getattr(operator, name) for name in (*_ARITHMETIC, "pow", "matmul")
}
INFIX: Mapping[str, _Call] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "matmul": operator.matmul,
}
SIZE_OPERATORS: Mapping[str, _Call] = {
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
"""Functions for the operations of symbolic sizes, by the name of their class."""

CONSTANTS = (
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
"""Types of plain values that a graph may hold, beside None and Ellipsis."""

# Calls that change something a graph cannot show.
_EFFECTS: Mapping[str, str] = {
    "_set_grad_enabled": "switches gradients on or off by itself",
    "backward": "runs backward inside forward",
    "__set__": "sets an attribute of a tensor",
    "__delete__": "deletes an attribute of a tensor",
    "register_hook": "registers a hook on a tensor",
    "register_post_accumulate_grad_hook": "registers a hook on a tensor",
    "retain_grad": "retains the gradient of a tensor",
}


def effect(func: Any, name: str) -> str | None:
    """What a call does beside returning a value, or None.

    Example:
        >>> effect(torch.Tensor.register_hook, "register_hook")
        'registers a hook on a tensor'
    """
    if func is torch.autograd.grad:
        return _EFFECTS["backward"]
    return _EFFECTS.get(name)


def is_requires_grad(func: Any) -> bool:
    """Whether a setter is that of ``tensor.requires_grad``.

    Example:
        >>> is_requires_grad(torch.Tensor.requires_grad.__set__)
        True
    """
    return bool(func.__self__ is getattr(Tensor, "requires_grad", None))


def is_constant(value: object) -> bool:
    """Whether a graph may hold ``value`` as it is.

    Example:
        >>> is_constant(torch.float32), is_constant(object())
        (True, False)
    """
    return value is None or value is Ellipsis or isinstance(value, CONSTANTS)


def spell(
    func: Any, name: str, args: tuple[Any, ...], named: bool
) -> tuple[Any, str, tuple[Any, ...]]:
    """How fx spells a call: ``(target, op, arguments)``.

    Args:
        func: what torch intercepted.
        name: its ``__name__``.
        args: its positional arguments.
        named: whether it has keyword arguments too.

    Example:
        >>> spell(torch.Tensor.add, "add", (1, 2), False)
        (<built-in function add>, 'call_function', (1, 2))
    """
    if name == "__get__":
        attribute = func.__self__.__name__
        return getattr, "call_function", (args[0], attribute)
    if name in OPERATORS:
        return OPERATORS[name], "call_function", args
    if name in REFLECTED:
        return REFLECTED[name], "call_function", (args[1], args[0])
    if name in INFIX and len(args) == 2 and not named:
        return INFIX[name], "call_function", args
    if getattr(Tensor, name, None) is func or _is_method(func, name):
        return name, "call_method", args
    return func, "call_function", args


def _is_method(func: Any, name: str) -> bool:
    if getattr(func, "__module__", "") == "torch._tensor" and hasattr(Tensor, name):
        return True  # an operator that Tensor wraps, such as ** as pow
    return getattr(func, "__objclass__", None) is torch._C.TensorBase
