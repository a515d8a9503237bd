"""What reading ``layer.weight`` gives: the masked weight, with the parameter behind it.

Initialisers, ``copy_``, ``.data``, the merge of an adapter and in-place changes of
views reach the parameter; so do ``.grad``, hooks, derivatives with respect to it, and
an optimizer that is made from it. All else sees ``h * m * w``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparsefx.errors import MaskError
from sparsefx.torch_internals import as_kind, is_compiling, is_traced, transforming

LATENT = "_sparsefx_latent"  # in a module's dict while it shows raw weights
# attributes that belong to the parameter; what is set always does
_OWN = {"grad", "is_leaf", "requires_grad", "_post_accumulate_grad_hooks"}
# functions of these modules speak of parameters, not of what layers compute with
_OF_PARAMETERS = {"torch.nn.init", "torch.autograd"}
_HOOKS = {"register_hook", "register_post_accumulate_grad_hook"}
_READS = {"__index__", "__int__", "__invert__", "__iter__"}


class LayerWeight(Tensor):
    """A masked weight that knows the parameter behind it."""

    _is_param = True  # to isinstance(..., nn.Parameter), as in the dense model
    _masked: Tensor
    _latent: Tensor

    def set_(self, *_: Any, **__: Any) -> Any:  # the one method torch sends nowhere
        """Is refused: parametrizations would move the parameter elsewhere."""
        raise MaskError(
            f"a masked weight of shape {tuple(self.shape)} cannot be given another "
            "storage; apply parametrizations and the like before sparsefx.transform, "
            "or to the model that sparsefx.finalize returns"
        )

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs ``func`` on the masked weight, or on the parameter where it writes."""
        given = dict(kwargs or {})
        if speaks_of_parameters(func):
            if getattr(func, "__self__", None) is Tensor.is_leaf:
                _let_optimizers_take_parameters()
            return func(*each(args, latent_of), **each(given, latent_of))
        name = func.__name__
        if "out" in given:
            given["out"] = each(given["out"], latent_of)
        if name == "requires_grad_" and not isinstance(args[0]._latent, nn.Parameter):
            raise MaskError(
                f"a masked weight of shape {tuple(args[0].shape)} cannot become "
                "another parameter; apply weight norms and the like before "
                "sparsefx.transform, or to the model that sparsefx.finalize returns "
                "(a copy of it is weight.detach().clone())"
            )
        if writes(name):
            first = each(args[0], latent_of)
            return func(first, *each(args[1:], masked_of), **each(given, masked_of))
        plain = func(*each(args, masked_of), **each(given, masked_of))
        if args and isinstance(args[0], LayerWeight) and aliases(plain, args[0]):
            rest = each(args[1:], masked_of), each(given, masked_of)
            return _paired(plain, func(args[0]._latent, *rest[0], **rest[1]))
        return plain


def layer_weight(masked: Tensor, latent: Tensor) -> Tensor:
    """The masked weight as layers show it.

    Compilers, tracers and transforms get the masked weight itself, and so do weights of
    tensor classes of their own.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> shown = layer_weight(w * torch.tensor([0.0, 1.0]), w)
        >>> _ = torch.nn.init.constant_(shown, 3.0)
        >>> (shown + 1).tolist(), w.tolist()
        ([1.0, 3.0], [3.0, 3.0])
    """
    plain = is_compiling() or is_traced() or transforming()
    if plain or type(masked) is not Tensor:
        return masked
    shown: Any = as_kind(masked, LayerWeight)
    shown._masked, shown._latent = masked, latent
    return shown  # type: ignore[no-any-return]


def latent_of(tensor: Any) -> Any:
    """The parameter behind what a layer shows; anything else is itself."""
    return tensor._latent if isinstance(tensor, LayerWeight) else tensor


def masked_of(tensor: Any) -> Any:
    """What a layer computes with; anything else is itself."""
    return tensor._masked if isinstance(tensor, LayerWeight) else tensor


def speaks_of_parameters(func: Callable[..., Any]) -> bool:
    """Whether what a function asks or sets belongs to the parameter."""
    if func.__name__ in ("__set__", "__delete__"):
        return True
    if func.__name__ == "__get__":
        return func.__self__.__name__ in _OWN  # type: ignore[attr-defined]
    home = getattr(func, "__module__", None)  # methods of C have none
    return home in _OF_PARAMETERS or func.__name__ in _HOOKS


def of_initialisers(func: Callable[..., Any]) -> bool:
    """Whether a function is one of `torch.nn.init`."""
    return getattr(func, "__module__", None) == "torch.nn.init"


def writes(name: str) -> bool:
    """Whether a function of that name changes its first argument."""
    if name.startswith("__"):
        return name.startswith(("__i", "__setitem__")) and name not in _READS
    return name.endswith("_")


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of lists, tuples and dicts with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(each(item, change) for item in value)
    if type(value) is dict:
        return {key: each(item, change) for key, item in value.items()}
    return value


def aliases(result: Any, shown: LayerWeight) -> bool:
    """Whether a result is a view of the masked weight, or several are."""
    if isinstance(result, (list, tuple)):
        return bool(result) and all(aliases(item, shown) for item in result)
    if type(result) is not Tensor or result.layout is not torch.strided:
        return False
    storage = shown._masked.untyped_storage()
    return bool(result.untyped_storage().data_ptr() == storage.data_ptr())


def _paired(masked: Any, latent: Any) -> Any:
    if isinstance(masked, Tensor):
        return layer_weight(masked, latent)
    return type(masked)(map(_paired, masked, latent))


@functools.cache
def _let_optimizers_take_parameters() -> None:
    """An optimizer asks its parameters whether they are leaves when it is made.

    Before its first step it gets the parameters in place of what layers show.
    """
    register_optimizer_step_pre_hook(_take_parameters)


def _take_parameters(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        group["params"][:] = map(latent_of, group["params"])
