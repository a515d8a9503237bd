"""What a lowered model is exported to runs in a process that has no sparsefx."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.kernels.sparse_product import Form
from sparsefx.lowering import package
from sparsefx.lowering.dense_layer import Dense, Window
from sparsefx.lowering.largest_difference import largest_difference
from sparsefx.lowering.layer_forms import CompressedLayer, NoCandidateError
from sparsefx.lowering.packed_convolution import PackedConvolution
from sparsefx.lowering.packed_layer import PackedLayer
from sparsefx.lowering.reduced_layers import Bf16Layer, Int8Layer
from tests.lowering.test_other_sizes import held
from tests.lowering.thin_models import Block, thinned


def packed(layer: Dense) -> nn.Module:
    kind = PackedLayer if layer.window is None else PackedConvolution
    return kind(layer, Form(16, 8))


KERNELS: dict[str, Callable[[Dense], nn.Module]] = {
    "packed": packed,
    "gather": partial(CompressedLayer, kernel="gather"),
    "csr": partial(CompressedLayer, kernel="csr"),
    "bsr": partial(CompressedLayer, kernel="bsr"),
    "packed int8": partial(PackedLayer, form=Form(4, 8, int8=True)),
    "int8": Int8Layer,
    "bf16": Bf16Layer,
}
LAYERS = {
    "linear": (None, (2, 60, 40)),
    "one token": (None, (1, 40)),
    "point": (Window((1, 1), (1, 1), (0, 0), (1, 1)), (2, 40, 9, 8)),
    "window": (Window((2, 1), (2, 1), (1, 0), (1, 1)), (2, 20, 9, 8)),
}


def operators(program: Any) -> set[str]:
    nodes = (n for m in program.graph_module.modules() for n in m.graph.nodes)
    return {str(n.target).split(".")[0] for n in nodes if n.op == "call_function"}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_becomes_operators_of_torch(kernel: str, name: str) -> None:
    window, shape = LAYERS[name]
    torch.manual_seed(0)
    blocks = (torch.rand(6, 5) < 0.4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    weight = torch.randn(48, 40) * blocks
    if window is not None:
        weight = weight.reshape(48, -1, *window.kernel)
    layer = Dense("w", weight, torch.randn(48), window)
    x = torch.randn(shape)
    try:
        module = KERNELS[kernel](layer).eval()
    except NoCandidateError:
        assert (kernel, window is None) == ("int8", False)
        return
    program = torch.export.export(module, (x,))
    assert operators(program) <= {"aten", "<built-in function getitem>"}
    exact = kernel in ("packed", "gather", "csr", "bsr")
    assert largest_difference(program.module()(x), layer(x)) < (1e-5 if exact else 0.02)


def alone(code: str) -> str:
    """What a process without sparsefx prints."""
    code = f"import sys; sys.modules['sparsefx'] = None; import torch; {code}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Tensor]:
    torch.manual_seed(0)
    folder, x = tmp_path_factory.mktemp("made"), torch.randn(2, 50, 32)
    model = thinned(Block(), density=0.1)
    lowered = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    with torch.no_grad():
        torch.save((x, model(x)), folder / "call.pt")
    return folder, lowered, x


COMPARED = (
    "x, y = torch.load({folder!r} + '/call.pt');"
    "print(float((run(x) - y).abs().max() / y.abs().max()))"
)


def test_exported(made: tuple[Path, Any, Tensor]) -> None:
    folder, lowered, x = made
    program = torch.export.export(lowered, (x,))
    torch.export.save(program, folder / "model.pt2")
    code = f"run = torch.export.load({str(folder / 'model.pt2')!r}).module();"
    assert float(alone(code + COMPARED.format(folder=str(folder)))) < 1e-5
    assert held(program.state_dict) < 1.1 * held(lowered.plan.state_dict())


@pytest.mark.slow
def test_packaged(made: tuple[Path, Any, Tensor]) -> None:
    folder, lowered, x = made
    path = str(package(lowered, (x,), folder / "package.pt2"))
    code = f"run = torch._inductor.aoti_load_package({path!r});"
    assert float(alone(code + COMPARED.format(folder=str(folder)))) < 1e-5
