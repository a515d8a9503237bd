"""Tensors of a module that are neither parameters nor buffers, but in its state dict.

Averages of a model (EMA, SWA) average parameters and buffers, and some write into the
tensors of ``state_dict()``. What must not be averaged, such as masks, is held here: it
follows the model to a device and into copies, keeps its precision, and a state dict
holds copies of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from sparsefx.kernels.ranks import Ranks
from sparsefx.masking.state_keys import of_dense


class Held(nn.Module):
    """A module that holds tensors under its attributes.

    Attributes:
        data: the ranks that see other data, and average gradients; None is all.

    Example:
        >>> module = Held()
        >>> module.hold("mask", torch.tensor([True, False]))
        >>> list(module.buffers()), list(module.state_dict())
        ([], ['mask'])
        >>> module.half().mask
        tensor([ True, False])
    """

    data: Ranks | None = None

    def hold(self, name: str, tensor: Tensor) -> None:
        """Holds one more tensor, or another one under a known name."""
        self.__dict__.setdefault("_held", {})[name] = None
        setattr(self, name, tensor)

    def held(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in self.__dict__.get("_held", {})}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes values into the tensors of these names."""
        for name, value in tensors.items():
            getattr(self, name).copy_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self.held().items():
            device = fn(torch.empty(0, device=tensor.device)).device
            setattr(self, name, tensor.detach().to(device))
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.held().items():
            destination[prefix + name] = tensor.detach().clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """Copies values in, also where others are to be taken over (``assign``)."""
        if of_dense(state_dict, prefix):
            return  # masks are found anew
        _, _, missing, _, errors = rest
        for name, tensor in self.held().items():
            value = state_dict.pop(prefix + name, None)
            if value is None:
                missing.append(prefix + name)
            elif value.shape != tensor.shape:
                errors.append(
                    f"size mismatch for {prefix + name}: copying {tuple(value.shape)} "
                    f"into {tuple(tensor.shape)}"
                )
            else:
                self.take({name: value})
        super()._load_from_state_dict(state_dict, prefix, *rest)
