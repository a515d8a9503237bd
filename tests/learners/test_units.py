"""Scores, drop and growth of units: the worked examples of the research dossier."""

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor

import sparsefx
from sparsefx.learners.learner import Situation
from sparsefx.learners.regrow import by_gradient as regrow
from sparsefx.learners.units import by_magnitude, by_taylor
from sparsefx.masking.site import Site
from sparsefx.passes.gate_units import scored
from sparsefx.passes.units.unit_map import Share, UnitGroup
from sparsefx.passes.units.unit_scores import growth, magnitudes, taylor
from sparsefx.policies.erk import erk
from sparsefx.settings.schedule import Ramp


@pytest.mark.parametrize(
    ("shapes", "density", "wanted"),
    [
        ([(8, 4), (2, 8)], 0.5, [0.4090909, 0.6818182]),
        ([(8, 4), (2, 8), (2, 2)], 0.6, [0.4636364, 0.7727273, 1.0]),
        ([(8, 3, 4, 4), (8, 8)], 0.5, [0.4166667, 1.0]),
    ],
)
def test_e1_erk(
    shapes: list[tuple[int, ...]], density: float, wanted: list[float]
) -> None:
    one = {"params": sympy.Integer(1)}
    sites = [Site(str(i), str(i), "linear", s, one) for i, s in enumerate(shapes)]
    total = sum(site.numel for site in sites)
    found = erk(sites, density * total, "params").densities
    assert list(found.values()) == pytest.approx(wanted, abs=1e-6)


def test_e2_drop_and_grow() -> None:
    """E2: ours counts exactly, and does not grow again what it has just dropped."""
    w = torch.tensor([0.5, -0.1, 0, 0.3, 0, -0.8, 0.05, 0])
    mask = w != 0

    def after(grad: list[float]) -> list[int]:
        found = regrow(
            Situation(
                names=["w"],
                values=[w],
                prices=[1.0],
                worths=[1.0],
                limits=[(5, 5)],
                budget=5.0,
                masks=[mask],
                scores=[torch.tensor(grad).abs()],
                drop_fraction=0.4,
            )
        ).masks[0]
        return found.nonzero().flatten().tolist()

    # a) as the reference: (0,2) and (1,3) grow
    assert after([0.9, 0.2, -0.6, 0.1, 0.05, 0.7, 0.3, -0.4]) == [0, 2, 3, 5, 7]
    # b) the reference grows (1,2), just dropped, with its old value; ours (1,3)
    assert after([0.9, 0.2, -0.6, 0.1, 0.05, 0.7, 0.5, -0.4]) == [0, 2, 3, 5, 7]
    # c) no gradient: the reference ends with 4 active, ours with 5
    assert len(after([0.0] * 8)) == 5


def test_e2_ties_drop_the_exact_number() -> None:
    """E2 d): three entries tie at the threshold; the reference drops 3, ours 2."""
    w = torch.tensor([0.1, 0.1, 0.1, 0.3, 0.4, 0.5, 0.6, 0.0])
    found = regrow(
        Situation(
            names=["w"],
            values=[w],
            prices=[1.0],
            worths=[1.0],
            limits=[(7, 7)],
            budget=7.0,
            masks=[w != 0],
            scores=[torch.ones(8)],
            drop_fraction=0.25,
        )
    )
    # one entry is free, so that one moves; never more than two
    assert int(found.masks[0].sum()) == 7
    assert int((found.masks[0] & (w != 0)).sum()) == 6


def test_e3_schedule() -> None:
    """E3: the reference's share of entries that move, by t / T."""
    ramp = Ramp("cosine", 0.5, 0.005, 0, 1000)
    wanted = {
        0: 0.5,
        250: 0.427509,
        500: 0.2525,
        750: 0.077491,
        800: 0.052268,
        1000: 0.005,
    }
    for step, value in wanted.items():
        assert ramp.at(step) == pytest.approx(value, abs=1e-6)
    # ours reaches the floor where masks freeze, not 0.0523 at 80 % of the way
    policy = sparsefx.load_policy("svite_units", total_steps=1000)
    assert policy.schedule().at(799).drop_fraction < 0.006


A = torch.tensor(
    [[[1, 2, -1], [0.5, -1, 2]], [[2, 0, 1], [-1, 1, 1]]], dtype=torch.float32
)
G = torch.tensor(
    [[[0.4, 0.1, 0.1], [-0.4, 0.3, 0.1]], [[0.1, 0.5, -0.2], [0.3, -0.4, 0.3]]]
)


def test_e4_scores_take_the_absolute_value_of_each_sample() -> None:
    first = taylor(A, G, torch.arange(3), 3, 2)
    second = growth(G, torch.arange(3), 3, 2)
    torch.testing.assert_close(first, torch.tensor([0.15, 0.25, 0.10]))
    torch.testing.assert_close(second, torch.tensor([0.60, 0.65, 0.35]))
    wrong = (A * G).sum((1,)).mean(0).abs()  # of the batch: ranks head 0 lowest
    torch.testing.assert_close(wrong, torch.tensor([0.05, 0.25, 0.10]))


def test_e4_closed_heads_are_scored_by_what_they_would_compute() -> None:
    value, gate = A.clone().requires_grad_(), torch.tensor([1.0, 0, 1])
    first, second, seen = torch.zeros(3), torch.zeros(3), torch.zeros(())
    for _ in range(2):
        out = scored(value, gate, torch.arange(3), 2, first, second, seen)
        out.backward(G)
    torch.testing.assert_close(first, torch.tensor([0.30, 0.50, 0.20]))
    torch.testing.assert_close(second, torch.tensor([1.20, 1.30, 0.70]))
    assert float(seen) == 2
    torch.testing.assert_close(value.grad, 2 * G * gate)  # open heads alone learn


def heads(grown: list[float]) -> list[bool]:
    situation = Situation(
        names=["heads"],
        values=[torch.tensor([0.15, 0.25, 0.10])],
        prices=[1.0],
        worths=[1.0],
        limits=[(1, 3)],
        budget=2.0,
        masks=[torch.tensor([True, False, True])],
        scores=[torch.tensor(grown)],
        drop_fraction=0.5,
    )
    return by_taylor(situation).masks[0].tolist()


def test_e4_drop_and_growth_of_heads() -> None:
    assert heads([0.60, 0.65, 0.35]) == [True, True, False]
    # the reference grows head 2 again, which it has just dropped; ours never does
    assert heads([0.60, 0.30, 0.35]) == [True, True, False]


def neurons() -> tuple[UnitGroup, dict[str, Tensor]]:
    fc1 = torch.tensor([[0.4, -0.2], [0.1, 0.1], [0, 0], [0.3, 0.6]])
    fc2 = torch.tensor([[0.2, -0.3, 0, 0.1], [0.1, 0.1, 0, -0.5]])
    owner = torch.arange(4)
    shares = (Share("fc1.weight", 0, owner), Share("fc2.weight", 1, owner))
    group = UnitGroup(
        "mlp.neurons",
        "neurons",
        4,
        shares,
        ("fc1.weight",),
        ("fc2.weight",),
        {"fc1.weight": (0,)},
        (),
        4.0,
        4,
    )
    return group, {"fc1.weight": fc1, "fc2.weight": fc2}


def test_e5_magnitudes_of_neurons() -> None:
    found = magnitudes(*neurons())
    torch.testing.assert_close(found, torch.tensor([0.9, 0.6, 0.0, 1.5]))


def test_e5_growth_by_the_gate_grows_something_new() -> None:
    """E5 a, b: the reference grows neuron 1 again, a no-op; the gate grows neuron 2."""
    _, weights = neurons()
    fc1, fc2 = weights["fc1.weight"], weights["fc2.weight"]
    fc1[2], fc2[:, 2] = 0.5, torch.tensor([0.4, -0.2])
    gate = torch.tensor([1.0, 0, 0, 1.0], requires_grad=True)
    x, target = torch.tensor([[1.0, 2.0], [2.0, -1.0]]), torch.eye(2)
    hidden = F.relu(x @ fc1.T)
    y = (hidden * gate) @ fc2.T
    torch.testing.assert_close(y, torch.tensor([[0.15, -0.75], [0.2, 0.1]]))
    loss = 0.5 * (y - target).square().sum()
    assert loss.item() == pytest.approx(1.0675)
    (grad,) = torch.autograd.grad(loss, gate)
    torch.testing.assert_close(grad, torch.tensor([-0.05, 0.039, -0.155, 0.435]))
    score = taylor(hidden, (y - target).detach() @ fc2, torch.arange(4), 4, 1)
    assert score[2] > score[1]
    situation = Situation(
        names=["neurons"],
        values=[torch.tensor([0.9, 0.6, 1.6, 1.5])],
        prices=[1.0],
        worths=[1.0],
        limits=[(1, 4)],
        budget=3.0,
        masks=[torch.tensor([True, True, False, True])],
        scores=[score],
        drop_fraction=0.3,
    )
    found = by_taylor(situation).masks[0]
    assert found.tolist() == [True, False, True, True]


def test_e5_growth_without_scores_moves_nothing() -> None:
    """E5 a': the reference's threshold of 0 turns everything on; ours keeps counts."""
    situation = Situation(
        names=["neurons"],
        values=[torch.ones(6)],
        prices=[1.0],
        worths=[1.0],
        limits=[(1, 6)],
        budget=3.0,
        masks=[torch.tensor([True] * 3 + [False] * 3)],
        scores=[torch.tensor([0, 0, 0, 0.3, 0, 0])],
        drop_fraction=0.6,
    )
    assert int(by_taylor(situation).masks[0].sum()) == 3


@pytest.mark.parametrize("budget", [6.0, 9.0, 14.0, 26.0, 40.0])
def test_no_unit_that_still_fits_is_left_out(budget: float) -> None:
    generator = torch.Generator().manual_seed(int(budget))
    situation = Situation(
        names=["heads", "neurons"],
        values=[torch.rand(3, generator=generator), torch.rand(9, generator=generator)],
        prices=[5.0, 1.0],
        worths=[10.0, 2.0],
        limits=[(1, 3), (1, 8)],
        budget=budget,
    )
    masks = by_magnitude(situation).masks
    counts = [int(mask.sum()) for mask in masks]
    left = budget - situation.cost(counts)
    assert left >= 0
    assert counts[1] == 8 or left < 1
    assert counts[0] == 3 or left < 5
