"""Gates leave every bit, and cutting changes nothing."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparsefx
from sparsefx.errors import CaptureError, MaskError
from sparsefx.passes import GateUnits, ShrinkUnits, find_units
from tests.models import Attention
from tests.passes.unit_graphs import drawn, gates_of, graph_of
from tests.some_of import some_of
from tests.unit_networks import NETWORKS, Gelu, Residual, awake, images, vit


@pytest.mark.parametrize("name", some_of(NETWORKS, 3))
def test_gates_of_one_leave_every_bit(name: str) -> None:
    model, x = awake(NETWORKS[name]()), images()
    graph = graph_of(model)
    before = graph(x)
    GateUnits()(graph)
    assert torch.equal(graph(x), before)


@pytest.mark.parametrize("dtype", some_of([torch.float64, torch.float32], 2))
@pytest.mark.parametrize("name", NETWORKS)
def test_cut_is_gated(name: str, dtype: torch.dtype) -> None:
    model, x = awake(NETWORKS[name]()).to(dtype).eval(), images(dtype=dtype)
    graph = GateUnits()(graph_of(model))
    open_gates = graph(x)
    drawn(graph)
    small, closed = ShrinkUnits()(graph), graph(x)
    assert not torch.allclose(closed, open_gates)
    error = float(((small(x) - closed).abs().max() / closed.abs().max()).detach())
    assert error <= (1e-14 if dtype == torch.float64 else 1e-6)
    assert small(images(5, dtype)).shape == (5, 3)
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in small.named_parameters()} == names


def test_opaque_attention_is_cut_after_splitting() -> None:
    model = awake(Attention()).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    graph = GateUnits()(graph_of(model, x))
    drawn(graph)
    small = ShrinkUnits()(graph)
    torch.testing.assert_close(small(x), graph(x), rtol=1e-13, atol=1e-13)
    weight = small.get_parameter("encoder.layers.0.self_attn.in_proj_weight")
    assert weight.shape == (24, 16)


def test_gradients_of_cut_and_gated_agree() -> None:
    model, x = awake(vit()).double(), images(dtype=torch.float64)
    graph = GateUnits()(graph_of(model))
    drawn(graph)
    small = ShrinkUnits()(graph)
    graph(x).square().sum().backward()
    small(x).square().sum().backward()
    for name, value in small.named_parameters():
        full = model.get_parameter(name).grad
        assert abs(float(full.abs().sum() - value.grad.abs().sum())) < 1e-9, name


def test_modes_follow_the_module() -> None:
    model = Residual()
    small = ShrinkUnits({"conv2.channels": [0, 2, 3]})(graph_of(model))
    before = small.norm1.running_mean.clone()
    small(images())
    assert not torch.equal(small.norm1.running_mean, before)
    small.eval()
    before = small.norm1.running_mean.clone()
    small(images())
    assert torch.equal(small.norm1.running_mean, before)
    assert small.norm1.num_features == 3


def test_round_to_adds_silent_units() -> None:
    model, x = awake(vit()), images()
    graph = GateUnits()(graph_of(model))
    drawn(graph)
    small = ShrinkUnits(round_to=8)(graph)
    assert small.get_parameter("blocks.0.mlp.fc1.weight").shape[0] % 8 == 0
    torch.testing.assert_close(small(x), graph(x), rtol=1e-6, atol=1e-6)


def test_gates_between_are_multiplied_in() -> None:
    model, x = awake(vit()).double(), images(dtype=torch.float64)
    graph = GateUnits()(graph_of(model))
    gates = gates_of(graph)
    for name in gates.names:
        gates.set(name, torch.linspace(0, 1, len(gates[name])))
    torch.testing.assert_close(ShrinkUnits()(graph)(x), graph(x), rtol=1e-12, atol=0)


def test_every_gate_closed_keeps_one_silent_unit() -> None:
    model, x = awake(vit()).double(), images(dtype=torch.float64)
    graph = GateUnits()(graph_of(model))
    for name in gates_of(graph).names:
        gates_of(graph).set(name, torch.zeros(len(gates_of(graph)[name])))
    small = ShrinkUnits()(graph)
    assert small.get_parameter("blocks.0.mlp.fc1.weight").shape == (1, 16)
    torch.testing.assert_close(small(x), graph(x), rtol=1e-13, atol=1e-13)


def test_constants_of_empty_units_fold() -> None:
    """E8 of the dossier, in a model: a head without weights adds its value bias."""
    model, x = awake(vit()).double(), images(dtype=torch.float64)
    with torch.no_grad():
        qkv, mlp = model.blocks[0].attention.qkv, model.blocks[1].mlp
        for part in range(3):
            qkv.weight[16 * part + 4 : 16 * part + 8] = 0
        mlp.fc1.weight[3:7] = 0
        mlp.fc2.weight[:, 9] = 0
    small = ShrinkUnits()(graph_of(model))
    assert small.get_parameter("blocks.0.attention.qkv.weight").shape == (36, 16)
    assert small.get_parameter("blocks.1.mlp.fc1.weight").shape == (19, 16)
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


def test_saved_models_load_without_sparsefx(tmp_path: Path) -> None:
    model, x = awake(vit()), images()
    small = ShrinkUnits({"blocks.0.mlp.fc2.neurons": range(5)})(graph_of(model))
    torch.save({"model": small, "x": x, "out": small(x)}, tmp_path / "small.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['sparsefx'] = None\n"
        f"found = torch.load({str(tmp_path / 'small.pt')!r}, weights_only=False)\n"
        "assert torch.equal(found['model'](found['x']), found['out'])\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    assert b"sparsefx" not in pickle.dumps(small.state_dict())


def test_cut_models_export_and_price() -> None:
    model, x = awake(vit()), images()
    graph = graph_of(model)
    units = find_units(graph)
    small = ShrinkUnits({"blocks.0.mlp.fc2.neurons": range(5)}, units=units)(graph)
    program = torch.export.export(small, (x,))
    assert torch.equal(program.module()(x), small(x))
    before, after = (
        sparsefx.costs(m, (x,)).totals()["macs"]["total"] for m in (model, small)
    )
    gone = 19 * units.groups["blocks.0.mlp.fc2.neurons"].macs
    assert before - after == gone


@pytest.mark.parametrize(
    ("keep", "text"),
    [({"nowhere": [0]}, "blocks.0.mlp"), ({"blocks.0.mlp.fc2.neurons": [24]}, "24")],
)
def test_unknown_units_are_refused(keep: dict[str, list[int]], text: str) -> None:
    with pytest.raises(MaskError, match=text):
        ShrinkUnits(keep)(graph_of(vit()))


def test_regions_around_trained_parameters_are_refused() -> None:
    class Frozen(Gelu):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.fc1(x)
            return self.fc2(x)

    graph = graph_of(Frozen(8, 16), torch.randn(2, 3, 8))
    with pytest.raises(CaptureError, match="requires_grad_"):
        ShrinkUnits()(graph)
