"""Scores, drop and growth of units: the dossier's worked examples, and whole lives."""

import copy

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import BudgetError, CaptureError, MaskError, PolicyError
from sparsefx.learners.learner import Situation
from sparsefx.learners.regrow import by_gradient as regrow
from sparsefx.learners.units import by_magnitude, by_taylor, even_counts
from sparsefx.masking.site import Site
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes import ShrinkUnits
from sparsefx.passes.units.unit_map import Share, UnitGroup
from sparsefx.passes.units.unit_scores import growth, magnitudes, taylor
from sparsefx.policies.erk import erk
from sparsefx.settings.schedule import Ramp
from tests.models import DataDependent
from tests.unit_networks import Gelu, awake, images, vit

EVERY = {"units_taylor", "units_magnitude", "units_soft_topk"}


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


def test_even_counts_fit_the_budget() -> None:
    sizes, prices = [4, 24, 6], [10.0, 1.0, 3.0]
    for budget in (30.0, 55.0, 82.0):
        situation = Situation(
            names=["a", "b", "c"],
            values=[torch.ones(n) for n in sizes],
            prices=prices,
            worths=[1.0] * 3,
            limits=[(1, n) for n in sizes],
            budget=budget,
        )
        counts = even_counts(situation)
        assert situation.cost(counts) <= budget
        assert all(1 <= c <= n for c, n in zip(counts, sizes, strict=True))


def transformed(policy: str = "svite_units", **options: object) -> nn.Module:
    options = {"budget": 0.6, "total_steps": 20, "update_every": 2, **options}
    return sparsefx.transform(vit(), policy, example_inputs=(images(8),), **options)


def train(sparse: nn.Module, steps: int, x: Tensor | None = None) -> float:
    x = images(8) if x is None else x
    y = torch.arange(8) % 3
    optimizer = torch.optim.AdamW(sparse.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(sparse(x), y)
        loss.backward()
        optimizer.step()
        sparsefx.step(sparse)
    return loss.item()


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


@pytest.mark.parametrize("learner", sorted(EVERY))
def test_life_of_units(learner: str) -> None:
    ramp = {"budget_ramp": "constant"} if learner != "units_taylor" else {}
    sparse, x = transformed(learner=learner, **_moving(learner), **ramp), images(8)
    train(sparse, 20)
    report = sparsefx.report(sparse)
    assert report.budgets["macs"].met
    dense = sparsefx.finalize(sparse)
    assert "Vit" in str(type(dense))
    torch.testing.assert_close(dense(x), sparse(x), rtol=1e-5, atol=1e-6)
    small = ShrinkUnits()(sparsefx.capture(dense, (x,)).graphs[""])
    torch.testing.assert_close(small(x), dense(x), rtol=1e-5, atol=1e-6)
    spent = sparsefx.costs(small, (x,)).totals()["macs"]["total"]
    assert spent == pytest.approx(report.budgets["macs"].kept)
    assert spent <= report.budgets["macs"].limit
    with pytest.raises(MaskError, match="finalized"):
        sparsefx.step(sparse)


def _moving(learner: str) -> dict[str, object]:
    if learner == "units_taylor":
        return {}
    return {"drop_fraction": 0.3, "drop_fraction_final": 0.0}


def test_counts_stay_and_units_move() -> None:
    sparse = transformed()
    before = sparsefx.masks(sparse)
    train(sparse, 10)
    after = sparsefx.masks(sparse)
    for name, mask in before.items():
        assert int(mask.sum()) == int(after[name].sum()), name
    assert any(bool((after[name] != before[name]).any()) for name in before)


def test_python_and_graph_read_the_same_gates() -> None:
    sparse, x = transformed(), images(8)
    program = sparse.__dict__["_sparsefx_program"]
    done, graph = program.run(sparse, (x,), {})
    assert done
    python = type(sparse)._sparsefx_original.forward(sparse, x)
    torch.testing.assert_close(graph, python, rtol=1e-5, atol=1e-6)


def test_copies_and_checkpoints_go_on_alike() -> None:
    sparse = transformed()
    train(sparse, 5)
    twin, other = copy.deepcopy(sparse), transformed(seed=9)
    other.load_state_dict(sparse.state_dict())
    losses = {train(model, 5) for model in (sparse, twin, other)}
    assert len(losses) == 1


def test_a_useful_neuron_comes_back() -> None:
    torch.manual_seed(3)
    model, x = Gelu(6, 8), torch.randn(64, 6)
    with torch.no_grad():
        model.fc1.weight[5] *= 4
        model.fc2.weight[:, 5] *= 8
        model.fc1.weight[2] *= 0.01
        target = model(x)
    sparse = sparsefx.transform(
        model, "svite_units", example_inputs=(x,), budget=0.9, update_every=1
    )
    state = sparse.get_submodule(f"{CHILD}.units")
    state.set("fc2.neurons", torch.tensor([1.0, 1, 1, 1, 1, 0, 1, 1]))
    loss = F.mse_loss(sparse(x), target)
    loss.backward()
    for _ in range(2):
        sparsefx.step(sparse)
    mask = sparsefx.masks(sparse)["fc2.neurons"]
    assert bool(mask[5])
    assert F.mse_loss(sparse(x), target).item() < 0.1 * loss.item()


def test_a_useful_head_comes_back() -> None:
    model, x = awake(vit()), images(16)
    with torch.no_grad():
        attention = model.blocks[0].attention
        attention.proj.weight[:, 4:8] *= 30
        attention.proj.weight[:, 8:12] *= 0.001
        target = model(x)
    sparse = sparsefx.transform(
        model,
        "svite_units",
        example_inputs=(x,),
        budget=0.9,
        update_every=1,
        include=("blocks.0.attention.*",),
    )
    name = "blocks.0.attention.proj.heads"
    sparse.get_submodule(f"{CHILD}.units").set(name, torch.tensor([1.0, 0, 1, 0]))
    loss = F.mse_loss(sparse(x), target)
    loss.backward()
    sparsefx.step(sparse)
    assert bool(sparsefx.masks(sparse)[name][1])
    assert F.mse_loss(sparse(x), target).item() < loss.item()


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(BudgetError, match="raise the budget above"):
        transformed(budget=0.05)
    with pytest.raises(CaptureError, match="one graph"):
        sparsefx.transform(
            DataDependent(), "svite_units", example_inputs=(torch.ones(2, 6),)
        )
    with pytest.raises(PolicyError, match="include and exclude"):
        transformed(exclude=("*",))


def test_the_unstructured_preset_trains_a_vit() -> None:
    """AdamW's moments of grown weights stay: the dossier's recipe."""
    sparse = sparsefx.transform(
        vit(), "svite", example_inputs=(images(8),), total_steps=20, update_every=2
    )
    optimizer = torch.optim.AdamW(sparse.parameters(), 1e-3, weight_decay=0.05)
    before = sparsefx.masks(sparse)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(sparse(images(8)), torch.arange(8) % 3).backward()
        optimizer.step()
        sparsefx.step(sparse)
    after = sparsefx.masks(sparse)
    for name, mask in before.items():
        assert int(mask.sum()) == int(after[name].sum()), name
    grown = after["blocks.0.mlp.fc1.weight"] & ~before["blocks.0.mlp.fc1.weight"]
    assert bool(grown.any())
    moments = optimizer.state[
        dict(sparse.named_parameters())["blocks.0.mlp.fc1.weight"]
    ]
    assert bool((moments["exp_avg"][grown] != 0).all())
    assert sparsefx.report(sparse).budgets["params"].met


def test_units_meet_every_budget() -> None:
    for learner in sorted(EVERY):
        sparse = transformed(
            learner=learner,
            budget={"macs": 0.6, "params": 0.55},
            **_moving(learner),
            budget_ramp="constant",
        )
        assert set(sparsefx.report(sparse).budgets) == {"macs", "params"}
        for _ in range(4):
            train(sparse, 2)
            report = sparsefx.report(sparse)
            assert all(budget.met for budget in report.budgets.values()), learner


def test_units_keep_bounds_and_multiples() -> None:
    options = {"learner": "units_magnitude", **_moving("units_magnitude")}
    name = "blocks.0.mlp.fc2"
    sparse = transformed(**options, layers={name: {"density": 1.0}}, round_to=2)
    train(sparse, 4)
    masks = sparsefx.masks(sparse)
    assert bool(masks[f"{name}.neurons"].all())
    for mask in masks.values():
        assert int(mask.sum()) % 2 == 0 or bool(mask.all())


def test_settings_without_meaning_for_units_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"block:2x2.*heads"):
        transformed(granularity="block:2x2")
    with pytest.raises(PolicyError, match="2:4"):
        transformed(layers={"blocks.0.mlp.fc2": {"granularity": "2:4"}})
    with pytest.raises(BudgetError, match="units have macs and params"):
        transformed(budget={"bytes": 0.5})
    with pytest.raises(PolicyError, match="matches no layer"):
        transformed(layers={"nothing": {"density": 1.0}})
    with pytest.raises(MaskError, match="no units that can be removed"):
        sparsefx.transform(vit(), "units", example_inputs=(images(8),), strict=True)


def test_calibration_without_effect_is_told() -> None:
    x = images(8)
    data = [(x, torch.zeros(8, dtype=torch.long))]
    with pytest.raises(PolicyError, match="calibration is given without loss"):
        sparsefx.transform(vit(), example_inputs=(x,), calibration=data)
    with pytest.raises(PolicyError, match="loss is given without calibration"):
        sparsefx.transform(vit(), example_inputs=(x,), loss=F.cross_entropy)
    for policy in ("cost_budget", "units", "svite_tokens", "sparse_wide"):
        with pytest.warns(UserWarning, match="calibration and loss have no effect"):
            sparsefx.transform(
                vit(),
                policy,
                example_inputs=(x,),
                calibration=data,
                loss=F.cross_entropy,
            )
