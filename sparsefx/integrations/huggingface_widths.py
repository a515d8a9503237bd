"""Hugging Face checkpoints of models whose layers have widths of their own."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.integrations import missing
from sparsefx.masking.copies import duplicate
from sparsefx.passes.shrink_units import ShrinkUnits
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.tracing.capture import capture
from sparsefx.tracing.example_calls import as_call
from sparsefx.tracing.preserve import in_eval, tensors_of

try:
    import transformers
    from transformers import AutoConfig, PreTrainedModel
except ImportError as error:
    raise missing("transformers", error) from error

_KEY = "sparsefx_widths"  # in config.json: by parameter, its shape
_RTOL = 1e-4


def narrowed(model: PreTrainedModel, example_inputs: Any) -> PreTrainedModel:
    """A copy of a model without its idle heads, neurons and channels.

    It computes what the model computes, has its class and the names of its parameters,
    of which some are smaller, and their shapes stand in its configuration: what its
    ``save_pretrained`` writes, `load_narrowed` reads.

    Args:
        model: some units of which are zero, as `sparsefx.prune` with ``unit_density``
            and `sparsefx.finalize` leave them. It stays as it is.
        example_inputs: as for `sparsefx.capture`; both models are compared on them.

    Raises:
        MaskError: this is no model of transformers, or no unit of it is idle.
        CaptureError: it is not one graph, or its own code holds the widths.
    """
    if not isinstance(model, PreTrainedModel):
        raise MaskError(
            f"model is a {type(model).__name__}; give a PreTrainedModel of "
            "transformers, or use sparsefx.passes.ShrinkUnits on a graph"
        )
    dense = duplicate(model)
    with in_eval(dense):
        found = capture(dense, example_inputs, verify=False)  # compared below
        if not found.whole:
            reason = next(iter(found.reasons.values()), "")
            raise CaptureError(
                f"units need the whole model as one graph; this {type(model).__name__} "
                f"is not ({reason})"
            )
        *_, (_, part) = found.programs[""].parts()
        values = dict(
            ShrinkUnits()(SplitAttention()(part.module(dense))).named_parameters()
        )
        own = dict(dense.named_parameters())
        widths = {
            name: list(value.shape)
            for name, value in values.items()
            if name in own and value.shape != own[name].shape
        }
        if not widths:
            raise MaskError(
                f"no unit of this {type(model).__name__} is idle; prune it with "
                "unit_density below 1 first"
            )
        small = duplicate(model)
        _resize(small, widths)
        for name, value in small.named_parameters():
            if name in values:
                value.data.copy_(values[name].detach())
        setattr(small.config, _KEY, widths)
        with in_eval(small):
            _compare(dense, small, example_inputs, values.keys() - own.keys())
    return small


def load_narrowed(folder: str | PathLike[str], **settings: Any) -> PreTrainedModel:
    """Loads what ``save_pretrained`` wrote of a `narrowed` model.

    Args:
        folder: or a name on the hub.
        settings: as for ``from_pretrained``.

    Raises:
        MaskError: the configuration holds no widths; ``from_pretrained`` loads it.
    """
    config = AutoConfig.from_pretrained(folder)
    widths = getattr(config, _KEY, None)
    if not widths:
        raise MaskError(
            f"the configuration in {folder} holds no widths of layers; load it with "
            "from_pretrained"
        )
    kind = getattr(transformers, config.architectures[0])

    def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        _resize(self, widths)

    narrow: Any = type(kind.__name__, (kind,), {"__init__": build})
    model: PreTrainedModel = narrow.from_pretrained(folder, config=config, **settings)
    model.__class__ = kind
    return model


def _resize(model: nn.Module, widths: dict[str, list[int]]) -> None:
    """Gives parameters other shapes, and layers the sizes that follow."""
    for name, shape in widths.items():
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        old = layer.get_parameter(leaf)
        new = nn.Parameter(old.new_empty(shape), requires_grad=old.requires_grad)
        setattr(layer, leaf, new)
        if isinstance(layer, nn.Linear) and leaf == "weight":
            layer.out_features, layer.in_features = shape


@torch.no_grad()
def _compare(
    dense: nn.Module, small: nn.Module, example_inputs: Any, added: set[str]
) -> None:
    args, kwargs = as_call(example_inputs)
    why = f"{', '.join(sorted(added))} would be new" if added else ""
    try:
        pair = [tensors_of(m(*args, **kwargs)) for m in (dense, small)]
        for one, two in zip(*pair, strict=True):
            torch.testing.assert_close(two, one, rtol=_RTOL, atol=_RTOL)
    except (RuntimeError, ValueError, AssertionError) as error:
        why = why or str(error).split("\n")[0]
    if why:
        raise CaptureError(
            f"the code of {type(dense).__name__} does not follow its layers' widths "
            f"({why}); save the model as it is, and cut it with sparsefx.lower"
        )
