"""Checkpoints as one safetensors file: the state dict, with masks packed into bits.

The file holds every tensor of ``state_dict()`` under its key, and for a sparse model
the hard masks as ``sparsefx.mask/<parameter>``: uint8, eight entries a byte, the first
one in the highest bit. Keys that share a tensor are stored once; the others are named
in the metadata, as is the recipe of the masks. A compressed file holds tensors with
many zeros as `packed_tensors` says; docs/files.md shows the format.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError, SparsefxError
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.state_keys import CHILD
from sparsefx.reports.text_table import human, percent, share
from sparsefx.training import sealed_file
from sparsefx.training.example_shapes import stand_in
from sparsefx.training.life import life_of
from sparsefx.training.live_model import masks, transform
from sparsefx.training.packed_tensors import compress, expand, pack
from sparsefx.training.recipe import Recipe, differences, policy_of
from sparsefx.training.unchanged_on_error import unchanged_on_error
from sparsefx.training.whole_model import refuse_shared

FORMAT = 2
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

    The file is written whole or not at all, and has a checksum; that of a sparse model
    holds its policy too.

    Args:
        module: what `transform` or `finalize` returned, or any module.
        path: the file to write, in a folder that is there. A link is followed.
        compressed: store tensors with many zeros as their non-zero entries and where
            they are, a bit for each place or columns by row; worth it for finalized
            models. `load` gives back the same bits; other programs need `expand`.

    Returns:
        The size of the file, and that of the tensors.

    Raises:
        MaskError: the file cannot be written; ranks share the module.
        SparsefxError: the state dict holds something that is not a tensor, or the
            package safetensors is missing.

    Example:
        >>> net = nn.Linear(1000, 100)
        >>> _ = net.weight.data[:, 50:].zero_()
        >>> print(save(net, "net.safetensors", compressed=True))
        31.3 kB, 7.8 % of 400 kB
    """
    root = unwrapped(module)
    if CHILD in root._modules:
        refuse_shared(life_of(root, "save"), "save")
    tensors: dict[str, Tensor] = {}
    notes: dict[str, Any] = {"format": FORMAT, "aliases": {}}
    stored: dict[tuple[Any, ...], str] = {}
    for key, value in root.state_dict().items():
        if not isinstance(value, Tensor):
            raise SparsefxError(
                f"{key!r} is a {type(value).__name__}, which safetensors cannot hold; "
                "use torch.save(module.state_dict(), path)"
            )
        same = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and same in stored:
            notes["aliases"][key] = stored[same]
            continue
        stored[same] = key
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if CHILD in root._modules:
        notes["recipe"] = life_of(root, "save").recipe
        for name, mask in masks(root).items():
            tensors[MASK + name] = pack(mask.cpu())
    size = sum(tensor.nbytes for tensor in tensors.values())
    if compressed:
        tensors, notes["compressed"] = compress(tensors)
    return Saved(sealed_file.write(path, tensors, notes), size)


def load(module: nn.Module, path: str | Path) -> nn.Module:
    """Reads what `save` wrote into ``module``, in place, and returns it.

    Training goes on as if it had never stopped; the optimizer's state is yours to save.
    Everything is checked first: whatever is raised, the model is as it was.

    A plain model takes the checkpoint of a sparse one too: it is transformed first as
    the file says, and what is returned is the sparse model, which shares its tensors.
    A sparse model takes a dense checkpoint: its masks are then found anew. Where the
    checkpoint was made under another budget, cost or schedule a warning says so, and
    the model's own settings hold.

    Raises:
        MaskError: the file was not written by `save` or is damaged; or its keys,
            shapes, masked weights, granularities, learner or number of budgets are
            not the module's; a masked weight has NaN or infinite entries; or ranks
            share the module.
        SparsefxError: the package safetensors is missing; the model cannot be
            transformed.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = save(layer, "layer.safetensors")
        >>> twin = load(nn.Linear(2, 2), "layer.safetensors")
        >>> torch.equal(twin.weight, layer.weight)
        True
    """
    notes, found = _opened(path)
    packed = {key: found.pop(key) for key in list(found) if key.startswith(MASK)}
    root, recipe = unwrapped(module), notes.get("recipe")
    if CHILD in root._modules:
        refuse_shared(life_of(root, "load"), "load")
    with unchanged_on_error(root):
        if recipe and CHILD not in root._modules:
            module = root = _made_sparse(module, recipe)
        told = _compared(root, recipe, path) if recipe else ()
        _read_into(root, found, path)
        if told:
            _say(root, told, path)
        elif recipe:
            _check_masks(root, packed, path)
    return module


def _opened(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint's notes and tensors, all of them under their keys."""
    notes, found = sealed_file.read(path)
    if notes.get("format") != FORMAT:
        raise MaskError(
            f"{path} has format {notes.get('format')}, this sparsefx reads {FORMAT}; "
            "load it with the version that wrote it, and save it anew with this one"
        )
    found = expand(found, notes.get("compressed", {}))
    return notes, found | {a: found[key] for a, key in notes["aliases"].items()}


def _made_sparse(module: nn.Module, recipe: Recipe) -> nn.Module:
    """A plain model, transformed as a checkpoint says."""
    if unwrapped(module) is not module:
        raise MaskError(
            f"the checkpoint is a sparse model's, and this {type(module).__name__} "
            "wraps a plain one; load into the model itself, and wrap what load returns"
        )
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    inputs = stand_in(recipe["inputs"], device)
    return transform(module, policy_of(recipe), example_inputs=inputs)


def _compared(root: nn.Module, recipe: Recipe, path: str | Path) -> Sequence[str]:
    """What is to be told of a checkpoint's recipe beside a model's."""
    found = differences(recipe, life_of(root, "load").recipe)
    if found.refused:
        raise MaskError(
            f"{path} does not fit this model: {'; '.join(found.refused)}; transform "
            "the model with the policy the checkpoint was made with (load does so with "
            "a plain model), or load another checkpoint"
        )
    return found.told


def _read_into(root: nn.Module, found: Mapping[str, Tensor], path: str | Path) -> None:
    """Loads what fits, with weights that masks can rank."""
    sites = life_of(root, "load").plan.sites if CHILD in root._modules else ()
    for site in sites:
        weight = found.get(site.name)
        if weight is not None and not weight.isfinite().all():
            raise MaskError(
                f"weight {site.name!r} in {path} has NaN or infinite entries; masks "
                "rank magnitudes and need finite ones: load an earlier checkpoint"
            )
    try:
        root.load_state_dict(dict(found))
    except RuntimeError as error:  # torch lists keys and shapes that do not fit
        raise MaskError(
            f"{path} does not fit this model ({' '.join(str(error).split())}); build "
            "the model that was saved, or load another checkpoint"
        ) from error


def _say(root: nn.Module, told: Sequence[str], path: str | Path) -> None:
    """Warns of other settings; masks that cost more than they allow are found anew."""
    life = life_of(root, "load")
    anew = "" if life.within() else ", whose budget the masks did not meet: found anew"
    if anew:
        life.resume(anew=True)
    warnings.warn(
        f"{path} was made with other settings ({'; '.join(told)}); training goes on "
        f"with this model's{anew}",
        UserWarning,
        stacklevel=3,
    )


def _check_masks(root: nn.Module, packed: Mapping[str, Tensor], path: Any) -> None:
    for name, mask in masks(root).items():
        if not torch.equal(pack(mask.cpu()), packed[MASK + name]):
            raise MaskError(
                f"the masks of {name!r} in {path} are not those its weights give; the "
                "file is of another version or machine, restore another checkpoint"
            )
