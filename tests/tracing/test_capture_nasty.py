"""Models that are hard to record: what each becomes, and that its masks are real."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.masking.masked_module import program_of
from sparsefx.tracing.preserve import tensors_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import traps

from tests.some_of import some_of

ONE, TWO, EVAL, PARTS = {""}, {":train", ":eval"}, {":eval"}, set()

# what the whole model becomes; its parts have graphs of their own
NASTY = {
    "branch_on_values": PARTS,
    "loop_on_values": PARTS,
    "experts_by_nonzero": PARTS,
    "item": PARTS,
    "loop_on_an_int": ONE,
    "args_and_kwargs": ONE,
    "several_positional": ONE,
    "list_of_tensors": ONE,
    "dict_of_tensors": ONE,
    "in_place_on_views": ONE,
    "in_place_by_mask": ONE,
    "aliased_layer": ONE,
    "tied_embedding": ONE,
    "layer_called_twice": ONE,
    "buffer_in_place": TWO,
    "buffer_rebound": EVAL,
    "layer_built_late": ONE,
    "lazy_linear": ONE,
    "integers": ONE,
    "only_a_seed": PARTS,
    "layer_drop_torch": EVAL,
    "checkpoint": PARTS,
}


def made(name):
    torch.manual_seed(0)
    return traps.MODELS[name]()


def answers(model, inputs, training):
    model.train(training)
    torch.manual_seed(1)
    given = copy.deepcopy(inputs)
    out = model(**given) if isinstance(given, dict) else model(*given)
    return [value.detach() for value in tensors_of(out)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kind"), some_of(NASTY.items(), 2))
def test_kind_and_masks(name: str, kind: Any) -> None:
    model, inputs = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparse = sparsefx.transform(model, example_inputs=inputs, budget={"params": 0.5})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    graphs = set(sparsefx.graphs(sparse))
    assert {key for key in graphs if not key or key[0] == ":"} == kind
    masks = sparsefx.masks(sparse)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == sum(mask.numel() for mask in masks.values()) // 2
    # the same as the plain model whose weights are zero where the masks are
    original, _ = made(name)
    dense = sparsefx.finalize(copy.deepcopy(sparse))
    assert type(dense) is type(model)
    assert list(dense.state_dict()) == list(original.state_dict())
    for key, weight in dense.named_parameters():
        zero = masks[key].logical_not() if key in masks else weight != weight
        assert not weight[zero].any()
    for training in (False, True, False):
        wanted = answers(dense, inputs, training)
        got = answers(sparse, inputs, training)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", some_of([key for key, kind in NASTY.items() if kind == ONE], 3)
)
def test_the_graph_answers(name: str) -> None:
    model, inputs = made(name)
    sparse = sparsefx.transform(model, example_inputs=inputs, budget={"params": 0.5})
    call = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    for training in (True, False):
        sparse.train(training)
        assert program_of(sparse).run(sparse, *copy.deepcopy(call))[0]


def test_scripted_children_are_refused_by_name() -> None:
    with pytest.warns(match=r"torch\.jit.* is deprecated"):
        model, inputs = made("scripted_child")
    with pytest.raises(sparsefx.CaptureError, match="submodule '1' is scripted"):
        sparsefx.transform(model, example_inputs=inputs)


def test_what_a_user_set_survives() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model.to(dtype=torch.float64, memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    seen = []
    model.register_forward_hook(lambda *_: seen.append("root"))
    model[2].register_forward_hook(lambda *_: seen.append("layer"))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with pytest.warns(UserWarning, match="submodule '2' has hooks"):
        sparse = sparsefx.transform(
            model, example_inputs=(x,), budget=0.5, include=("*",)
        )
    seen.clear()
    sparse(x)
    assert seen == ["layer", "root"]
    assert [m.training for m in sparse] == [m.training for m in model]
    for found in (sparse, sparsefx.finalize(sparse)):
        assert [p.requires_grad for p in found.parameters()] == [False, *[True] * 3]
        for part in (found[0], found[2]):
            raw = part._parameters["weight"]
            assert raw.dtype is torch.float64
            assert raw.is_contiguous(memory_format=torch.channels_last)
        assert len(found[2]._forward_hooks) == len(found._forward_hooks) == 1
