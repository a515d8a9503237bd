"""Whole lives of units: counts, copies, checkpoints, what comes back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import BudgetError, CaptureError, MaskError, PolicyError
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes import ShrinkUnits
from tests.made_once import made_once
from tests.models import DataDependent
from tests.some_of import some_of
from tests.unit_networks import Gelu, awake, images, vit

EVERY = {"units_taylor", "units_magnitude", "units_soft_topk"}


@made_once
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


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("share", some_of([0.375, 0.75], 2))
def test_groups_that_share_a_weight_cost_no_more_than_they_say(share, cost) -> None:
    wide = [nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU()]
    net, x = nn.Sequential(*wide, nn.Linear(40, 4)), torch.ones(5, 12)
    sparse = sparsefx.transform(net, "units", example_inputs=(x,), budget={cost: share})
    report = sparsefx.report(sparse)
    graph = sparsefx.capture(sparsefx.finalize(sparse), (x,)).graphs[""]
    left = sparsefx.costs(ShrinkUnits()(graph), (x,)).totals()[cost]["total"]
    whole = sparsefx.costs(net, (x,)).totals()[cost]["total"]
    kept = report.budgets[cost].kept
    assert left <= kept <= share * whole
    assert report.totals[cost].fixed >= 0


@pytest.mark.parametrize("learner", some_of(sorted(EVERY), 3))
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


def test_kinds_have_densities_of_their_own() -> None:
    """The paper's rows, such as heads .7 and neurons .6: whole units, rounded down."""
    kinds = {"*.heads": {"density": 0.7}, "*.neurons": {"density": 0.6}}
    sparse = transformed(budget=1.0, layers=kinds)
    before = sparsefx.masks(sparse)
    train(sparse, 6)
    after = sparsefx.masks(sparse)
    for name, mask in after.items():
        wanted = 2 if name.endswith("heads") else 14  # of 4 and of 24
        assert int(mask.sum()) == int(before[name].sum()) == wanted, name
    assert any(bool((after[name] != before[name]).any()) for name in after)


def test_scores_are_means_since_the_last_update() -> None:
    sparse, x = transformed(), images(8)
    alone = copy.deepcopy(sparse)
    sparse(x).square().sum().backward()
    sparsefx.step(sparse)  # no update: it goes on counting
    sparse(2 * x).square().sum().backward()
    found = []
    for batch in (x, 2 * x):
        fresh = copy.deepcopy(alone)
        fresh(batch).square().sum().backward()
        found.append(fresh.get_submodule(f"{CHILD}.units").scores())
    scores = sparse.get_submodule(f"{CHILD}.units").scores
    for name, kinds in scores().items():
        for kind, mean in kinds.items():
            one, other = (each[name][kind] for each in found)
            torch.testing.assert_close(mean, (one + other) / 2)
    sparsefx.step(sparse)
    assert scores() == {}


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
    for policy in ("units", "svite_tokens"):
        with pytest.warns(UserWarning, match="calibration and loss have no effect"):
            sparsefx.transform(
                vit(),
                policy,
                example_inputs=(x,),
                calibration=data,
                loss=F.cross_entropy,
            )


def test_the_least_budget_of_units_is_enough() -> None:
    """Seven parameters a neuron, and two biases that no neuron owns."""
    make = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    given = {"example_inputs": (torch.randn(3, 4),)}
    sparse = sparsefx.transform(make(), "units", budget={"params": "9 params"}, **given)
    assert sum(int(mask.sum()) for mask in sparsefx.masks(sparse).values()) == 1
    info = sparsefx.step(sparse)
    assert (info.soft_cost, info.hard_cost) == (9.0, 9.0)
    with pytest.raises(BudgetError, match="the least number of units cost 9"):
        sparsefx.transform(make(), "units", budget={"params": "8 params"}, **given)
