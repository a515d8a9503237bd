"""Masked weights and steps by Triton, in its interpreter; the sizes are tiny."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from tests.interpreted import QUIET, SIZES, WIDE  # isort: skip

import sparsefx
from sparsefx.errors import MaskError
from sparsefx.kernels import reference, using
from sparsefx.kernels import triton_backend as kernels
from sparsefx.kernels.tensor_layout import readable
from sparsefx.solver.device_solver import DeviceSolver
from sparsefx.training.step_report import LaterReport
from tests.scalars import bits_above, site_scalars

pytestmark = QUIET


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
def test_masked_weight_and_its_gradient(dtype: torch.dtype, wide: bool) -> None:
    w = (4 * torch.randn(6, 4, 5, 3)).round().div(4).to(dtype)
    g = torch.randn(6, 4, 5, 3).to(dtype)
    if wide:
        w = w.to(memory_format=WIDE)
    close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    rule, bits = site_scalars(), bits_above(w)
    out = kernels.masked(w, bits, rule, 0)
    torch.testing.assert_close(out, reference.masked(w, bits, rule, 0), **close)
    local, sum_ = kernels.masked_backward(g, w, rule, 0)
    expected, expected_sum = reference.masked_backward(g, w, rule, 0)
    torch.testing.assert_close(local, expected, **close)
    torch.testing.assert_close(sum_, expected_sum, rtol=1e-5, atol=1e-3)
    again = kernels.masked_backward(g, w, rule, 0)
    assert torch.equal(again[1], sum_)
    assert torch.equal(again[0], local)


def test_masks_of_one_are_the_identity() -> None:
    w = torch.randn(50, 3)
    assert torch.equal(
        kernels.masked(w, bits_above(w, -1.0), site_scalars(math.inf, 1, 0), 0), w
    )


# of torch's own check, from 2.14
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operators_are_registered() -> None:
    w = torch.randn(9, 7, requires_grad=True)
    rule = site_scalars().at(0)
    rule.mu.requires_grad_(True)
    arguments = (w, bits_above(w), rule, torch.float32)
    torch.library.opcheck(torch.ops.sparsefx.masked.default, arguments)
    arguments = (torch.randn(9, 7), w.detach(), site_scalars().at(0))
    torch.library.opcheck(torch.ops.sparsefx.masked_backward.default, arguments)


def test_the_operator_casts() -> None:
    w = torch.randn(9, 7)
    out = torch.ops.sparsefx.masked(
        w, bits_above(w), site_scalars().at(0), torch.bfloat16
    )
    expected = reference.masked(w, bits_above(w), site_scalars(), 0).bfloat16()
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_couple_corrects_all_gradients(dtype: torch.dtype) -> None:
    weights = [
        torch.randn(300).to(dtype),
        torch.randn(4, 6, 3, 3).to(dtype).to(memory_format=WIDE),
        torch.randn(20, 10).to(dtype).T,  # not readable: the reference takes it
        torch.randn(17).to(dtype),
    ]
    grads = [torch.randn(w.shape).to(dtype) for w in weights]
    grads[1] = grads[1].to(memory_format=WIDE)
    mine = [g.clone() for g in grads]
    vectors = [torch.rand(4, dtype=torch.float64) for _ in range(3)]
    factor = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    a, b, c = vectors
    kernels.couple(weights, mine, a, b, c, factor)
    reference.couple(weights, grads, a, b, c, factor)
    close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    for one, two in zip(mine, grads, strict=True):
        torch.testing.assert_close(one, two, **close)


def test_what_is_readable() -> None:
    w = torch.randn(8, 8)
    assert readable([w, w[:4]])
    assert not readable([])
    assert not readable([w.T])
    assert not readable([w.double()])
    assert not readable([w, w.bfloat16()])
    assert not readable([w.reshape(-1)[1:]])
    assert kernels.usable([w])
    assert not kernels.usable([w.double()])


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SIZES.items():
        monkeypatch.setitem(DeviceSolver.__init__.__kwdefaults__, name, size)


def small_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def trained(
    maker: str, steps: int, **more: object
) -> tuple[nn.Module, list[sparsefx.StepReport]]:
    """A net after some steps whose kernels come from `maker`."""
    net = sparsefx.transform(
        small_net(),
        example_inputs=(torch.randn(3, 12),),
        **{"budget": 0.5, "keep_units": False, "total_steps": 8, **more},
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(2)
    reports = []
    with using(maker):
        for _ in range(steps):
            x = torch.randn(6, 12, generator=generator)
            net(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            reports.append(sparsefx.step(net))
    return net, reports


@pytest.mark.usefixtures("small_pieces")
def test_training_on_the_device_is_training_on_the_host() -> None:
    device, fetched = trained("sparsefx.kernels.triton_backend", 5)
    host, known = trained("sparsefx.kernels.reference", 5)
    assert isinstance(fetched[-1], LaterReport)
    for one, two in zip(fetched, known, strict=True):
        assert one.step == two.step
        assert one.budget == two.budget
        assert one.hard_cost == two.hard_cost
        assert one.soft_cost == pytest.approx(two.soft_cost, rel=1e-5)
        assert one.changed == two.changed
        assert one.training_cost == two.training_cost
        assert one.kept_mask_mean == pytest.approx(two.kept_mask_mean, rel=1e-4)
        assert one.densities == two.densities
        assert one.mu == pytest.approx(two.mu, rel=1e-3)
    masks = sparsefx.masks(host)
    assert all(torch.equal(m, masks[n]) for n, m in sparsefx.masks(device).items())
    for one, two in zip(device.parameters(), host.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    seen, expected = sparsefx.report(device).history, sparsefx.report(host).history
    assert [point.step for point in seen] == [point.step for point in expected]
    assert "soft_cost=" in repr(fetched[-1])
    assert copy.deepcopy(fetched[-1]) == pickle.loads(pickle.dumps(fetched[-1]))


@pytest.mark.usefixtures("small_pieces")
def test_a_device_tells_of_weights_that_are_not_finite_at_the_next_step() -> None:
    net, _ = trained("sparsefx.kernels.triton_backend", 3)
    before = sparsefx.masks(net)
    weight = dict(net.named_parameters())["0.weight"]
    value = weight[0, 0].item()
    with torch.no_grad(), using("sparsefx.kernels.triton_backend"):
        weight[0, 0] = math.inf
        sparsefx.step(net)
        weight[0, 0] = value
        with pytest.raises(MaskError, match=r"'0\.weight' has NaN or infinite"):
            sparsefx.step(net)
        assert all(torch.equal(m, before[n]) for n, m in sparsefx.masks(net).items())
        assert sparsefx.step(net).step == 5
    copy.deepcopy(net)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("least", "later"), [(0.05, True), (0.4, False)])
def test_layers_near_their_least_are_left_to_the_host(
    least: float, later: bool
) -> None:
    layers = {"2": {"min_density": least}}
    options = {"layers": layers, "budget": 0.4, "total_steps": None}
    net, reports = trained("sparsefx.kernels.triton_backend", 2, **options)
    assert isinstance(reports[-1], LaterReport) == later
    assert sparsefx.masks(net)["2.weight"].sum() >= least * 80
