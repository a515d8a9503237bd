"""The ground truth: modules whose weights are masked wherever Python reads them.

A module that owns a masked weight gets a subclass of its own class, shared by all
modules of that class, in which the weight's name is a property: the raw parameter
stays in ``_parameters`` under its name, and reading the attribute gives the masked
weight. A module with a recorded graph runs it where its guards hold.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn

from sparsefx.errors import MaskError
from sparsefx.masking.layer_weight import (
    LATENT,
    LayerWeight,
    latent_of,
    layer_weight,
    masked_of,
)
from sparsefx.masking.mask_node import Masks
from sparsefx.masking.state_keys import CHILD
from sparsefx.masking.whole_state import whole_in_state_dicts
from sparsefx.torch_internals import is_compiling

_INDEX = "_sparsefx_index"  # attribute name -> site number
_PROGRAM = "_sparsefx_program"  # the recorded graph
_MASKS = "_sparsefx_masks"  # what masks the weights


def mask_module(module: nn.Module, sites: dict[str, int], masks: Masks) -> None:
    """Makes ``module`` show masked weights.

    Args:
        module: the owner.
        sites: attribute name to site number.
        masks: what masks them.
    """
    module.__dict__.setdefault(_INDEX, {}).update(sites)
    module.__dict__[_MASKS] = masks
    _reclass(module)


def run_graph(module: nn.Module, program: Any, state: nn.Module) -> None:
    """Makes ``module`` run a recorded graph where its guards hold.

    Args:
        module: the graph's owner.
        program: the recorded graph.
        state: what the graph reads masks from.
    """
    module.__dict__[_PROGRAM] = program
    if CHILD not in module._modules:
        module.__dict__[CHILD] = state
    _reclass(module)


def program_of(module: nn.Module) -> Any:
    """The recorded graph of a module, or None."""
    return module.__dict__.get(_PROGRAM)


def restore(root: nn.Module) -> None:
    """Gives every module its own class back and removes the masks' traces."""
    for module in list(root.modules()):
        original = getattr(type(module), "_sparsefx_original", None)
        if original is not None:
            module.__class__ = original
        if isinstance(module, fx.GraphModule):
            # its class holds its code: a copy must not share it
            module.__class__ = type(fx.GraphModule.__new__(fx.GraphModule))
            module.recompile()
        if isinstance(module, nn.RNNBase):
            raw: Any = module
            raw._flat_weights = [
                getattr(raw, name, None) for name in raw._flat_weights_names
            ]
        for name in (_INDEX, _PROGRAM, _MASKS, LATENT, CHILD):
            module.__dict__.pop(name, None)
    root._modules.pop(CHILD, None)


def unwrapped(module: nn.Module) -> nn.Module:
    """The transformed model inside DDP and compiled wrappers.

    Raises:
        MaskError: it is no module.
    """
    if not isinstance(module, nn.Module):
        raise MaskError(
            f"the model comes first, and is a {type(module).__name__}; give a "
            "torch.nn.Module"
        )
    for _ in range(8):
        for name in ("_orig_mod", "module"):
            inner = module._modules.get(name)
            if isinstance(inner, nn.Module) and CHILD not in module._modules:
                module = inner
                break
        else:
            break
    return module


def _reclass(module: nn.Module) -> None:
    original: Any = getattr(type(module), "_sparsefx_original", type(module))
    names = tuple(module.__dict__.get(_INDEX, {}))
    module.__class__ = _subclass(
        original, names, program_of(module) is not None, CHILD in module._modules
    )


@functools.cache
def _subclass(
    cls: type[nn.Module], names: tuple[str, ...], has_graph: bool, is_root: bool
) -> type[nn.Module]:
    """One subclass for all modules alike, so that compiled code is shared."""
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_sparsefx_original": cls,
        "__deepcopy__": _deepcopy,
        "__copy__": _shallow_copy,
        "__reduce_ex__": _refuse_pickle,
        "get_parameter": _get_parameter(cls),
        "register_parameter": _register_parameter(cls),
        "__setattr__": _setattr(cls),
        **whole_in_state_dicts(cls, _MASKS),
    }
    for name in names:
        body[name] = _masked_property(name)
    if issubclass(cls, nn.RNNBase):
        body["_flat_weights"] = property(_flat_weights, _ignore)
    if has_graph:
        body["forward"] = _forward(cls)
        for name in ("graph", "code", "print_readable"):
            if is_root and not hasattr(cls, name):
                body[name] = property(functools.partial(_of_graph, name))
    if is_root and issubclass(cls, nn.Sequential):
        body |= {"__iter__": _iter, "__len__": _len, "__getitem__": _getitem}
    return type(cls.__name__, (cls,), body)


def _flat_weights(self: Any) -> list[Tensor | None]:
    """The list that recurrent layers compute with, of masked weights."""
    names = self._flat_weights_names
    return [masked_of(getattr(self, name, None)) for name in names]


def _ignore(self: nn.Module, value: Any) -> None:
    """Torch keeps that list up to date; ours is made anew."""


def _masked_property(name: str) -> property:
    def get(self: nn.Module) -> Tensor | None:
        if name not in self._parameters:  # taken away, see `masking.places`
            raise AttributeError(f"{type(self).__name__} has no parameter {name!r}")
        weight = self._parameters[name]
        if weight is None or LATENT in self.__dict__:
            return weight
        masks: Masks = self.__dict__[_MASKS]
        masked = masks.masked(weight, self.__dict__[_INDEX][name])
        return layer_weight(masked, weight)

    return property(get)


def _get_parameter(cls: type[nn.Module]) -> Any:
    @functools.wraps(cls.get_parameter)
    def get_parameter(self: nn.Module, target: str) -> nn.Parameter:
        found: nn.Parameter = latent_of(cls.get_parameter(self, target))
        return found

    return get_parameter


def _register_parameter(cls: type[nn.Module]) -> Any:
    """Parameters are registered, not what layers show of them."""

    @functools.wraps(cls.register_parameter)
    def register_parameter(
        self: nn.Module, name: str, param: nn.Parameter | None
    ) -> None:
        known, own = self.__dict__[_INDEX], latent_of(param)
        if name in known and own is not None:  # tensor parallelism
            if self.__dict__[_MASKS].takes(known[name], own, gathered=False):
                self._parameters[name] = own
                return
        taken = [n for n in known if n != name and self._parameters.get(n) is own]
        if own is not None and name not in known and taken:
            raise MaskError(
                f"{taken[0]!r} of this {cls.__name__} is masked, and cannot become "
                f"{name!r} as well; prune, normalise or parametrize it before "
                "sparsefx.transform, or the model that sparsefx.finalize returns"
            )
        cls.register_parameter(self, name, own)

    return register_parameter


def _setattr(cls: type[nn.Module]) -> Any:
    """FSDP2 puts parts of weights, and whole ones, in the place of parameters."""

    @functools.wraps(cls.__setattr__)
    def setattr_(self: nn.Module, name: str, value: Any) -> None:
        index = self.__dict__.get(_INDEX, {}).get(name)
        if index is not None and type(value) is not LayerWeight:
            if not isinstance(value, nn.Parameter) and isinstance(value, Tensor):
                raise MaskError(
                    f"{name!r} of this {cls.__name__} is masked, and cannot become a "
                    "tensor that is no parameter (FullyShardedDataParallel does so); "
                    "use torch.distributed.fsdp.fully_shard, or DistributedDataParallel"
                )
            if isinstance(value, nn.Parameter):
                if self.__dict__[_MASKS].takes(index, value, gathered=True):
                    self._parameters[name] = value
                    return
        cls.__setattr__(self, name, value)

    return setattr_


def _forward(cls: type[nn.Module]) -> Any:
    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        program = self.__dict__.get(_PROGRAM)
        if program is None:  # finalized, but a wrapper has kept this method
            return type(self).forward(self, *args, **kwargs)
        # compilers read the Python, masked by the properties
        if not is_compiling() and LATENT not in self.__dict__:
            life = getattr(self, CHILD)
            life.follow()
            # where ranks share weights, hooks of the layers bring them together
            done, out = (
                (False, None) if life.shared() else program.run(self, args, kwargs)
            )
            if done:
                return out
        return cls.forward(self, *args, **kwargs)

    return forward


def _of_graph(name: str, self: nn.Module) -> Any:
    program = self.__dict__[_PROGRAM]
    if program.mode is not None:
        raise AttributeError("each mode has a graph of its own; see sparsefx.graphs")
    return getattr(program.module(self), name)


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    twin = object.__new__(type(self))  # a GraphModule would make a class of its own
    memo[id(self)] = twin
    twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return twin


def _shallow_copy(self: nn.Module) -> nn.Module:
    twin = object.__new__(type(self))  # a GraphModule would make a class of its own
    twin.__dict__.update(self.__dict__)
    return twin


def _refuse_pickle(self: nn.Module, protocol: Any) -> Any:
    raise MaskError(
        f"a masked {type(self).__name__} cannot be pickled: it would come back "
        "without its masks; use sparsefx.save(module, path) or torch.save("
        "module.state_dict(), path), or finalize the model first"
    )


def _layers(self: nn.Module) -> Sequence[nn.Module]:
    return [m for name, m in self._modules.items() if name != CHILD and m is not None]


def _iter(self: nn.Module) -> Iterator[nn.Module]:
    return iter(_layers(self))


def _len(self: nn.Module) -> int:
    return len(_layers(self))


def _getitem(self: nn.Module, index: Any) -> Any:
    found = _layers(self)[index]
    return nn.Sequential(*found) if isinstance(index, slice) else found
