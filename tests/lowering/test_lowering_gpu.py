"""The forms that need a GPU: 2:4 and blocks in bfloat16, and CUDA graphs."""

import pytest
import torch

import sparsefx
from sparsefx.lowering.dense_layer import Dense
from sparsefx.lowering.layer_forms import CompressedLayer, SemiStructuredLayer

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device"
)


def two_of_four(rows, columns):
    weight = torch.randn(rows, columns, device="cuda")
    weight.view(-1, 4)[:, :2] = 0
    return weight.bfloat16()


def in_blocks(rows, columns, size=64):
    mask = torch.rand(rows // size, columns // size, device="cuda") < 0.3
    mask[0, 0] = True
    mask = mask.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return (torch.randn(rows, columns, device="cuda") * mask).bfloat16()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["semi_structured", "bsr"])
def test_forms_are_the_dense_layer(form: str, bias: bool) -> None:
    torch.manual_seed(0)
    weight = (two_of_four if form == "semi_structured" else in_blocks)(256, 512)
    added = torch.randn(256, device="cuda", dtype=torch.bfloat16) if bias else None
    layer = Dense("w", weight, added)
    if form == "bsr":
        module = CompressedLayer(layer, "bsr")
    else:
        module = SemiStructuredLayer(layer)
    x = torch.randn(2, 64, 512, device="cuda", dtype=torch.bfloat16)
    gap = (module(x) - layer(x)).abs().max() / layer(x).abs().max()
    assert gap < 2e-2


def test_a_lowered_model_runs_in_a_cuda_graph() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.GELU())
    net = net.to("cuda", torch.bfloat16)
    net[0].weight.data.copy_(two_of_four(512, 512))
    x = torch.randn(128, 512, device="cuda", dtype=torch.bfloat16)
    fast = sparsefx.lower(net, (x,), "semi_structured", compile=False)
    with torch.no_grad():
        for _ in range(3):
            fast(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = fast(x)
        graph.replay()
    torch.testing.assert_close(out, fast(x))
