"""The Triton solver, in Triton's interpreter on CPU tensors; the sizes are tiny."""

import math

import pytest
import torch
from torch import Tensor

from tests.interpreted import QUIET, SIZES, WIDE  # isort: skip

from sparsefx.kernels.mask_rule import hard_mask, magnitude, soft_mask
from sparsefx.solver.device_solver import VECTORS, DeviceSolver, Seen
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer
from tests.networks import softly
from tests.some_of import some_of

pytestmark = QUIET


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
    soft = softly(layers, budget, beta, hard)
    assert seen.counts == tuple(hard.counts)
    assert into["threshold"].tolist() == [rule.threshold for rule in hard.rules]
    kept = [
        hard_mask(magnitude(w), into["threshold"][i], into["last"][i])
        for i, w in enumerate(weights)
    ]
    expected = [
        hard_mask(magnitude(w), *rule)
        for w, rule in zip(weights, hard.rules, strict=True)
    ]
    assert all(map(torch.equal, kept, expected))
    assert into["last"].tolist() == [rule.last for rule in hard.rules]
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
    for i, row in enumerate(soft.rows):
        spread = prices[i] * row.spread
        assert into["spread"][i].item() == pytest.approx(spread, rel=1e-3, abs=1e-6)
        m = soft_mask(layers[i].magnitude, row.slope, row.center, row.offset)
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


@pytest.mark.parametrize("case", some_of(CASES, 2))
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
