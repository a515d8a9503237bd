"""Checkpoints as one safetensors file: the state dict, with masks packed into bits.

The file holds every tensor of ``state_dict()`` under its key, and for a sparse model
the hard masks as ``sparsefx.mask/<parameter>``: uint8, eight entries a byte, the first
one in the highest bit. Keys that share a tensor are stored once; the others are named
in the metadata. A compressed file holds tensors with many zeros as `packing.py` says;
docs/files.md shows the format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError, SparsefxError
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.state_keys import CHILD, of_dense
from sparsefx.reports.text_table import human, percent, share
from sparsefx.training.live_model import masks
from sparsefx.training.packed_tensors import compress, expand, pack

MASK = "sparsefx.mask/"


@dataclass(frozen=True, slots=True)
class Saved:
    """What `save` wrote.

    Attributes:
        bytes: size of the file.
        dense_bytes: bytes of the tensors as they are in memory, each counted once.
    """

    bytes: int
    dense_bytes: int

    def __str__(self) -> str:
        part = percent(share(self.bytes, self.dense_bytes))
        return f"{human(self.bytes)}B, {part} of {human(self.dense_bytes)}B"


def save(module: nn.Module, path: str | Path, *, compressed: bool = False) -> Saved:
    """Writes a sparse, finalized or plain module's state to a safetensors file.

    Args:
        module: what `transform` or `finalize` returned, or any module.
        path: the file to write.
        compressed: store tensors with many zeros as their non-zero entries and where
            they are, a bit for each place or columns by row; worth it for finalized
            models. `load` gives back the same bits; other programs need `expand`.

    Returns:
        The size of the file, and that of the tensors.

    Raises:
        SparsefxError: the state dict holds something that is not a tensor, or the
            package safetensors is missing.

    Example:
        >>> net = nn.Linear(1000, 100)
        >>> _ = net.weight.data[:, 50:].zero_()
        >>> print(save(net, "net.safetensors", compressed=True))
        31.2 kB, 7.8 % of 400 kB
    """
    root = unwrapped(module)
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {"format": 1, "aliases": {}}
    stored: dict[tuple[Any, ...], str] = {}
    for key, value in root.state_dict().items():
        if not isinstance(value, Tensor):
            raise SparsefxError(
                f"{key!r} is a {type(value).__name__}, which safetensors cannot hold; "
                "use torch.save(module.state_dict(), path)"
            )
        same = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and same in stored:
            extra["aliases"][key] = stored[same]
            continue
        stored[same] = key
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if CHILD in root._modules:
        for name, mask in masks(root).items():
            tensors[MASK + name] = pack(mask.cpu())
    size = sum(tensor.nbytes for tensor in tensors.values())
    if compressed:
        tensors, extra["compressed"] = compress(tensors)
    _safetensors().save_file(tensors, str(path), {"sparsefx": json.dumps(extra)})
    return Saved(Path(path).stat().st_size, size)


def load(module: nn.Module, path: str | Path) -> nn.Module:
    """Reads what `save` wrote into ``module``, in place, and returns it.

    Training goes on as if it had never stopped; the optimizer's state is yours to save.
    A sparse model also takes a dense checkpoint: its masks are then found anew.

    Raises:
        SparsefxError: the file cannot be read.
        MaskError: the file masks other weights than the module, or its masks are not
            those its weights give.
        RuntimeError: the file's keys or shapes are not the module's.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = save(layer, "layer.safetensors")
        >>> twin = load(nn.Linear(2, 2), "layer.safetensors")
        >>> torch.equal(twin.weight, layer.weight)
        True
    """
    root = unwrapped(module)
    extra, found = _read(path)
    packed = {key: found.pop(key) for key in list(found) if key.startswith(MASK)}
    for alias, key in extra.get("aliases", {}).items():
        found[alias] = found[key]
    sparse = CHILD in root._modules
    if not sparse and not of_dense(found, CHILD):
        raise MaskError(
            f"{path} holds a sparse model in training; load it into the model that "
            "sparsefx.transform returns"
        )
    root.load_state_dict(found)
    if sparse and packed:
        for name, mask in masks(root).items():
            if not torch.equal(pack(mask.cpu()), packed[MASK + name]):
                raise MaskError(
                    f"the masks of {name!r} in {path} are not those its weights give; "
                    "the file is damaged, restore another checkpoint"
                )
    return module


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    library = _safetensors()
    try:
        with library.safe_open(str(path), framework="pt") as file:
            extra = json.loads((file.metadata() or {}).get("sparsefx", "{}"))
            found = {key: file.get_tensor(key) for key in file.keys()}
            return extra, expand(found, extra.get("compressed", {}))
    except OSError:
        raise
    except Exception as error:
        raise SparsefxError(
            f"{path} cannot be read as a safetensors file ({error}); it is damaged or "
            "something else, restore another checkpoint"
        ) from error


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise SparsefxError(
            'save and load need safetensors: pip install "sparsefx[checkpoint]"; or '
            "use torch.save(module.state_dict(), path)"
        ) from error

    class _Both:
        save_file = staticmethod(safetensors.torch.save_file)
        safe_open = staticmethod(safetensors.safe_open)

    return _Both
