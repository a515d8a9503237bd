"""Texts of a command line: inputs, budgets, models."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsefx.commands.given import budget_of, example_inputs
from sparsefx.commands.given_model import load_model
from sparsefx.errors import SparsefxError

CODE = """
import beside
from torch import nn

def build(width=4):
    return nn.Linear(width, beside.OUT)

tree = nn.Sequential(nn.Linear(2, 2))
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "beside.py").write_text("OUT = 3")
    (tmp_path / "net.py").write_text(CODE)
    return str(tmp_path / "net.py")


def test_models_may_be_modules_or_nested_names(file: str) -> None:
    assert isinstance(load_model(f"{file}:tree"), nn.Sequential)
    assert isinstance(load_model("torch:nn.Identity"), nn.Identity)


def test_a_file_imports_what_lies_beside_it_and_takes_arguments(file: str) -> None:
    before = list(sys.path)
    assert load_model(f"{file}:build").in_features == 4
    layer = load_model(f"{file}:build", {"width": 6})
    assert (layer.in_features, layer.out_features) == (6, 3)
    assert sys.path == before


def test_models_of_libraries() -> None:
    pytest.importorskip("timm")
    assert load_model("timm:resnet10t", {"num_classes": 7}).num_classes == 7
    with pytest.raises(SparsefxError, match=r"cannot be built: .*nobody"):
        load_model("timm:nobody")


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=16, architectures=["BertForMaskedLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "config.json"):
        model = load_model(f"hf:{name}")
        assert isinstance(model, transformers.BertForMaskedLM)
    model.save_pretrained(tmp_path)
    same = load_model(f"hf:{tmp_path}")
    for a, b in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SparsefxError, match="pip install timm"):
        load_model("timm:resnet18")


def test_inputs() -> None:
    inputs = example_inputs(["1,3,4", "2,5:int64"])
    assert isinstance(inputs, tuple)
    assert [(tuple(x.shape), x.dtype) for x in inputs] == [
        ((1, 3, 4), torch.float32),
        ((2, 5), torch.int64),
    ]
    named = example_inputs(["a=1,2", "b=3:bool"])
    assert isinstance(named, dict)
    assert [(k, tuple(x.shape), x.dtype) for k, x in named.items()] == [
        ("a", (1, 2), torch.float32),
        ("b", (3,), torch.bool),
    ]
    assert example_inputs([]) is None
    for some in (["a=1,2", "3"], ["a=1", "a=2"]):
        with pytest.raises(SparsefxError, match="a name of its own"):
            example_inputs(some)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0,2", "-1", "1,2:int65", "1:nn"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(SparsefxError, match=r"is not a shape; .*1,128:int64"):
        example_inputs([text])


def test_budgets() -> None:
    assert budget_of(["25%"]) == "25%"
    assert budget_of(["5 MB"]) == "5 MB"
    assert budget_of(["macs=0.1", "bytes=5 MB"]) == {"macs": 0.1, "bytes": "5 MB"}
    with pytest.raises(SparsefxError, match="does not say what it limits"):
        budget_of(["macs=0.1", "0.2"])
