"""The Triton kernels, in Triton's interpreter on CPU tensors; the sizes are tiny."""

import copy
import math
import os
import pickle

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is not installed: pip install '.[triton]'")
if os.environ.get("TRITON_INTERPRET") != "1":  # tests/conftest.py sets it
    pytest.skip("there is a GPU: tests/test_triton_compile.py", allow_module_level=True)

import sparsefx
from sparsefx.dual import solve_soft
from sparsefx.errors import MaskError
from sparsefx.greedy import solve_hard
from sparsefx.kernels import reference, using
from sparsefx.kernels import triton as kernels
from sparsefx.kernels.device_solver import VECTORS, DeviceSolver, Seen
from sparsefx.kernels.table import readable
from sparsefx.layer import Layer, hard_mask, magnitude, soft_mask
from sparsefx.step_report import LaterReport
from tests.scalars import site_scalars

SIZES = {"chunk": 256, "block": 128}
WIDE = torch.channels_last
pytestmark = pytest.mark.filterwarnings(
    # the interpreter's NumPy speaks of lanes that are masked out
    "ignore:divide by zero:RuntimeWarning",
    "ignore:overflow:RuntimeWarning",
    "ignore:invalid value:RuntimeWarning",
)


def buffers(sites: int) -> dict[str, Tensor]:
    """The vectors of a state that knows nothing yet."""
    made = {
        name: torch.zeros(
            sites, dtype=torch.int64 if name in ("last", "group") else torch.float64
        )
        for name in VECTORS
    }
    made["dual"] = torch.full((2,), math.nan, dtype=torch.float64)
    return made


def device_solver(
    weights: list[Tensor], prices: list[float], normalize: str = "none"
) -> DeviceSolver:
    shares = [1.0 + 0.25 * i for i in range(len(weights))]
    active = [price > 0 for price in prices]
    return DeviceSolver(weights, prices, shares, normalize, active, **SIZES)


def total(weights: list[Tensor], prices: list[float]) -> float:
    return math.fsum(p * w.numel() for p, w in zip(prices, weights, strict=True))


def check(
    solver: DeviceSolver,
    weights: list[Tensor],
    prices: list[float],
    budget: float,
    beta: float,
    into: dict[str, Tensor],
) -> None:
    """Solves, and compares everything with the host's answer."""
    solver.solve(weights, budget, beta, into)
    seen = Seen.of(solver.observe(weights, into))
    worths = solver.worths.tolist()
    layers = [
        Layer(magnitude(w), p, v, 0, w.numel())
        for w, p, v in zip(weights, prices, worths, strict=True)
    ]
    hard = solve_hard(layers, budget)
    soft = solve_soft(layers, budget, beta, hard.cutoff)
    assert seen.counts == tuple(hard.counts)
    assert into["threshold"].tolist() == list(hard.thresholds)
    kept = [
        hard_mask(magnitude(w), into["threshold"][i], into["last"][i])
        for i, w in enumerate(weights)
    ]
    expected = [
        hard_mask(magnitude(w), edge, last)
        for w, edge, last in zip(weights, hard.thresholds, hard.lasts, strict=True)
    ]
    assert all(map(torch.equal, kept, expected))
    assert into["last"].tolist() == list(hard.lasts)
    masks = [
        soft_mask(magnitude(w), into["slope"][i], into["center"][i], into["mu"][i])
        for i, w in enumerate(weights)
    ]
    cost = math.fsum(
        p * m.sum(dtype=torch.float64).item()
        for p, m in zip(prices, masks, strict=True)
    )
    allowed = min(budget, total(weights, prices))
    assert cost == pytest.approx(allowed, rel=1e-6)
    paid = math.fsum(p * n for p, n in zip(prices, seen.soft, strict=True))
    assert paid == pytest.approx(cost, rel=1e-6)
    assert seen.mu == into["dual"][0].item()
    bought = sum(m[h].sum().item() for m, h in zip(masks, kept, strict=True))
    assert sum(seen.bought) == pytest.approx(bought, rel=1e-5)
    assert into["dual"].tolist() == [pytest.approx(soft.mu, rel=1e-4), beta]
    for i, spread in enumerate(soft.spreads):
        assert into["spread"][i].item() == pytest.approx(spread, rel=1e-3, abs=1e-6)
        m = soft_mask(layers[i].magnitude, *(
            x[i] for x in (soft.slopes, soft.centers, soft.offsets)
        ))  # fmt: skip
        torch.testing.assert_close(masks[i], m, rtol=1e-4, atol=1e-5)


CASES = {
    "normal": ([torch.float32], "layer", [1.0, 4.0, 2.0], 0.1, 5.0, None),
    "one price": ([torch.float32], "global", [3.0, 3.0, 3.0], 0.3, 2.0, None),
    "raw": ([torch.float32], "none", [1e6, 2e6, 1e6], 0.15, 1e6, None),
    "bfloat16": ([torch.bfloat16], "layer", [1.0, 0.1, 0.3], 0.2, 3.0, None),
    "half": ([torch.float16], "layer", [1.0, 2.0, 1.0], 0.5, 20.0, None),
    "equal": ([torch.float32], "none", [1.0, 2.0, 1.0], 0.4, 1.0, "equal"),
    "zeros": ([torch.float32], "layer", [1.0, 2.0, 3.0], 0.3, 4.0, "zeros"),
    "rounded": ([torch.float32], "none", [1.0, 1.0, 2.0], 0.35, 2.0, "rounded"),
}

AGAIN = ("normal", "bfloat16")


def weights_of(case: str, dtype: torch.dtype, kind: str | None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(case))
    shapes = [(20, 15), (7,), (6, 4, 3, 3)]
    made = [
        torch.randn(shape, generator=generator) * (0.2 + i)
        for i, shape in enumerate(shapes)
    ]
    if kind == "equal":
        made = [torch.full_like(w, 0.5) for w in made]
    if kind == "zeros":
        made = [torch.where(w.abs() > 1.3 * w.std(), w, 0.0) for w in made]
    if kind == "rounded":
        made = [(2 * w).round() / 2 for w in made]
    made[2] = made[2].to(memory_format=WIDE)
    return [w.to(dtype) for w in made]


@pytest.mark.parametrize("case", CASES)
def test_device_solver_agrees_with_the_host(case: str) -> None:
    (dtype,), normalize, prices, share, beta, kind = CASES[case]
    weights = weights_of(case, dtype, kind)
    solver = device_solver(weights, prices, normalize)
    into = buffers(3)
    budget = share * total(weights, prices)
    check(solver, weights, prices, budget, beta, into)
    if case in AGAIN:  # once more, from where it stands, with other weights
        for i, weight in enumerate(weights):
            weight.mul_(1.0 + 0.01 * i).add_(0.002)
        check(solver, weights, prices, 1.1 * budget, 1.02 * beta, into)


def test_all_is_kept_where_the_budget_pays_it() -> None:
    weights, prices = [torch.randn(30), torch.randn(9, 2)], [1.0, 2.0]
    solver, into = device_solver(weights, prices), buffers(2)
    solver.solve(weights, total(weights, prices), 1.0, into)
    assert into["mu"].tolist() == [math.inf] * 2
    assert into["threshold"].tolist() == [-1.0] * 2
    assert into["last"].tolist() == [29, 17]
    assert Seen.of(solver.observe(weights, into)).counts == (30, 18)


def test_weights_that_cost_nothing_stay() -> None:
    weights, prices = [torch.randn(40), torch.randn(50)], [0.0, 2.0]
    solver, into = device_solver(weights, prices, "layer"), buffers(2)
    solver.solve(weights, 20.0, 3.0, into)
    assert Seen.of(solver.observe(weights, into)).counts == (40, 10)
    assert into["group"].tolist() == [0, 1]
    assert into["mu"][0].item() == math.inf


def test_two_runs_agree_bitwise() -> None:
    def run() -> tuple[dict[str, Tensor], Tensor]:
        weights = weights_of("twice", torch.float32, None)
        solver = device_solver(weights, [1.0, 3.0, 2.0], "layer")
        into = buffers(3)
        solver.solve(weights, 200.0, 4.0, into)
        return into, solver.observe(weights, into)

    (one, seen), (two, again) = run(), run()
    assert torch.equal(seen, again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been() -> None:
    weights = weights_of("resume", torch.float32, None)
    prices = [1.0, 3.0, 2.0]
    into = buffers(3)
    solver = device_solver(weights, prices, "layer")
    solver.solve(weights, 250.0, 4.0, into)
    saved = {name: x.clone() for name, x in into.items()}
    for weight in weights:
        weight.mul_(1.01)
    solver.solve(weights, 240.0, 4.1, into)
    device_solver(weights, prices, "layer").solve(weights, 240.0, 4.1, saved)
    assert all(torch.equal(saved[name], into[name]) for name in into)


def test_moved_entries_are_counted() -> None:
    weights, prices = [torch.randn(70), torch.randn(40)], [1.0, 1.0]
    solver, into = device_solver(weights, prices), buffers(2)
    solver.solve(weights, 30.0, 2.0, into)
    solver.observe(weights, into)
    before = [
        hard_mask(w.abs(), into["threshold"][i], into["last"][i])
        for i, w in enumerate(weights)
    ]
    for weight in weights:
        weight.add_(0.3 * torch.randn_like(weight))
    solver.solve(weights, 25.0, 2.0, into)
    after = [
        hard_mask(w.abs(), into["threshold"][i], into["last"][i])
        for i, w in enumerate(weights)
    ]
    moved = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    assert sum(Seen.of(solver.observe(weights, into)).moved) == moved


def test_weights_that_are_not_finite_change_nothing() -> None:
    weights, prices = [torch.randn(30), torch.randn(30)], [1.0, 1.0]
    solver, into = device_solver(weights, prices), buffers(2)
    solver.solve(weights, 10.0, 2.0, into)
    saved = {name: x.clone() for name, x in into.items()}
    weights[1][3] = math.nan
    solver.solve(weights, 5.0, 2.0, into)
    assert Seen.of(solver.observe(weights, into)).bad == 1
    assert all(torch.equal(saved[name], into[name]) for name in into)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
def test_masked_weight_and_its_gradient(dtype: torch.dtype, wide: bool) -> None:
    w = (4 * torch.randn(6, 4, 5, 3)).round().div(4).to(dtype)
    g = torch.randn(6, 4, 5, 3).to(dtype)
    if wide:
        w = w.to(memory_format=WIDE)
    close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    rule = site_scalars(through=0.5)
    out = kernels.masked(w, rule)
    torch.testing.assert_close(out, reference.masked(w, rule), **close)
    local, sum_ = kernels.masked_backward(g, w, rule)
    expected, expected_sum = reference.masked_backward(g, w, rule)
    torch.testing.assert_close(local, expected, **close)
    torch.testing.assert_close(sum_, expected_sum, rtol=1e-5, atol=1e-3)
    again = kernels.masked_backward(g, w, rule)
    assert torch.equal(again[1], sum_)
    assert torch.equal(again[0], local)


def test_masks_of_one_are_the_identity() -> None:
    w = torch.randn(50, 3)
    assert torch.equal(kernels.masked(w, site_scalars(math.inf, 1, 0, -1, 149)), w)


def test_operators_are_registered() -> None:
    w = torch.randn(9, 7, requires_grad=True)
    rule = site_scalars()
    rule.mu.requires_grad_(True)
    arguments = (w, rule, torch.float32)
    torch.library.opcheck(torch.ops.sparsefx.masked.default, arguments)
    arguments = (torch.randn(9, 7), w.detach(), site_scalars())
    torch.library.opcheck(torch.ops.sparsefx.masked_backward.default, arguments)


def test_the_operator_casts() -> None:
    w = torch.randn(9, 7)
    out = torch.ops.sparsefx.masked(w, site_scalars(), torch.bfloat16)
    expected = reference.masked(w, site_scalars()).bfloat16()
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
    kernels.couple(weights, mine, *vectors, factor)
    reference.couple(weights, grads, *vectors, factor)
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
    device, fetched = trained("sparsefx.kernels.triton", 5)
    host, known = trained("sparsefx.kernels.reference", 5)
    assert isinstance(fetched[-1], LaterReport)
    for one, two in zip(fetched, known, strict=True):
        assert one.step == two.step
        assert one.budget == two.budget
        assert one.hard_cost == two.hard_cost
        assert one.soft_cost == pytest.approx(two.soft_cost, rel=1e-5)
        assert one.changed == two.changed
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
    net, _ = trained("sparsefx.kernels.triton", 3)
    before = sparsefx.masks(net)
    weight = dict(net.named_parameters())["0.weight"]
    value = weight[0, 0].item()
    with torch.no_grad(), using("sparsefx.kernels.triton"):
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
    net, reports = trained("sparsefx.kernels.triton", 2, **options)
    assert isinstance(reports[-1], LaterReport) == later
    assert sparsefx.masks(net)["2.weight"].sum() >= least * 80
