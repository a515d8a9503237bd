"""Lower precisions: what outputs change by is measured, reported, and bounded."""

import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.lowering.dense_layer import Dense, Window
from sparsefx.lowering.largest_difference import largest_difference
from sparsefx.lowering.layer_trial import Trial, try_layer
from sparsefx.lowering.precision import within
from sparsefx.lowering.reduced_layers import Bf16Layer, Int8Layer
from tests.lowering.thin_models import Block

REDUCED = ("bf16", "int8")


@pytest.fixture
def favoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every form were faster the fewer bits it has, and the whole twice."""

    def layers(calls: Any, *_: Any) -> dict[str, float]:
        times = {"bf16": 3.0, "int8": 2.0}
        return {n: times.get([*n.split(), ""][1], 4.0) for n in calls}

    monkeypatch.setattr("sparsefx.lowering.layer_trial.interleaved", layers)
    monkeypatch.setattr(
        "sparsefx.lowering.lower_model.interleaved",
        lambda *_: {"dense": 2.0, "lowered": 1.0},
    )


def lowered(model: nn.Module, x: Tensor, **settings: Any) -> Any:
    return sparsefx.lower(model, (x,), compile=False, rounds=1, **settings)


def changed(fast: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return largest_difference(fast(x), model(x))


@pytest.mark.parametrize("precision", REDUCED)
def test_layers_change_and_the_report_says_by_how_much(
    block: Any, favoured: None, precision: str
) -> None:
    model, x = block
    fast = lowered(model, x, precision=precision)
    report = fast.report
    assert {row.precision for row in report.layers} == {precision}
    assert report.change == changed(fast, model, x)
    assert 0 < report.change <= report.tolerance == 0.05
    assert all(0 < row.change < 0.05 for row in report.layers)
    assert f"{precision}: outputs change by {report.change:.2g}" in str(report)
    found = report.to_dict()
    assert found["change"] == report.change
    assert found["layers"][0]["precision"] == precision
    twin = pickle.loads(pickle.dumps(fast))
    assert torch.equal(twin(x), fast(x))
    for shape in ((1, 50, 32), (3, 7, 32), (2, 1, 32)):  # any batch, any length
        other = torch.randn(shape)
        assert changed(fast, model, other) < 0.1


def test_auto_takes_the_fastest_and_the_bound_decides(
    block: Any, favoured: None
) -> None:
    model, x = block
    assert {r.precision for r in lowered(model, x).report.layers} == {"exact"}
    free = lowered(model, x, precision="auto", tolerance=math.inf).report
    assert {row.precision for row in free.layers} == {"int8"}
    none = lowered(model, x, precision="auto", tolerance=0)
    assert {row.precision for row in none.report.layers} == {"exact"}
    assert none.report.change <= 1e-5
    whys = {row.lost["dense int8"] for row in none.report.layers}
    assert all(why.startswith("alone it changes the output by") for why in whys)
    half = lowered(model, x, precision="auto", tolerance=free.change / 2)
    assert half.report.change <= free.change / 2
    assert changed(half, model, x) == half.report.change
    assert {row.precision for row in half.report.layers} == {"int8", "exact"}


def test_the_change_is_measured_on_the_calibration(block: Any, favoured: None) -> None:
    model, x = block
    calls = [(torch.randn(1, 9, 32),), {"x": torch.randn(3, 50, 32)}]
    fast = lowered(model, x, precision="int8", calibration=calls)
    gaps = [changed(fast, model, calls[0][0]), changed(fast, model, calls[1]["x"])]
    assert fast.report.change == max(gaps)


def trials_of(changes: Sequence[float]) -> list[Trial]:
    made = []
    for i, _ in enumerate(changes):
        exact = Trial(str(i), "linear", (1, 1), 1.0, "dense")
        made.append(
            Trial(str(i), "linear", (1, 1), 1.0, "dense", precision="int8", exact=exact)
        )
    return made


@pytest.mark.parametrize("tolerance", [0, 0.5, 1.5, 3.5, 9, 100])
def test_those_that_cost_most_go_back_as_few_as_it_takes(tolerance: float) -> None:
    changes = [4.0, 1.0, 8.0, 2.0]
    trials = trials_of(changes)

    def outputs(some: Sequence[Trial]) -> list[Tensor]:
        spent = [c for c, t in zip(changes, some, strict=True) if t.exact]
        return [torch.tensor([1.0 + sum(spent)])]

    kept, total = within(trials, outputs, [torch.ones(1)], tolerance)
    stays = [c for c, t in zip(changes, kept, strict=True) if t.precision == "int8"]
    assert total == sum(stays) <= tolerance
    assert sorted(stays) == sorted(changes)[: len(stays)]
    if len(stays) < len(changes):
        assert sum(sorted(changes)[: len(stays) + 1]) > tolerance


def test_outputs_that_are_no_numbers_go_back() -> None:
    (kept,), total = within(
        trials_of([1.0]),
        lambda some: [torch.tensor(math.nan if some[0].exact else 1.0)],
        [torch.tensor(1.0)],
        math.inf,
    )
    assert (kept.precision, total) == ("exact", 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"precision": "int4"}, "'int4' is unknown; known are exact, bf16, int8, auto"),
        ({"tolerance": 0.1}, "tolerance was given with precision 'exact'"),
        ({"calibration": [(1,)]}, "calibration was given with precision 'exact'"),
        ({"precision": "int8", "tolerance": -1}, "tolerance is -1; give a number"),
        ({"precision": "auto", "tolerance": math.nan}, "tolerance is nan"),
        ({"precision": "bf16", "tolerance": "small"}, "tolerance is 'small'"),
        ({"precision": "bf16", "tolerance": True}, "tolerance is True"),
        ({"precision": "int8", "calibration": []}, "calibration is an empty list"),
        ({"precision": "int8", "calibration": 3}, "give a tuple of positional"),
    ],
)
def test_mistakes(block: Any, settings: Any, told: str) -> None:
    model, x = block
    with pytest.raises(sparsefx.SparsefxError, match=told):
        lowered(model, x, **settings)


def test_dense_models_may_be_in_fewer_bits(favoured: None) -> None:
    model, x = Block().eval(), torch.randn(2, 50, 32)
    fast = lowered(model, x, precision="int8", target="dense")
    assert {(r.chosen, r.precision) for r in fast.report.layers} == {("dense", "int8")}
    assert fast.report.verdict == "dense: 2.00x the dense model"


LAYERS = [None, Window((3, 3), (2, 2), (1, 1), (1, 1))]


@pytest.mark.parametrize("window", LAYERS)
def test_bf16_layers(window: Window | None) -> None:
    torch.manual_seed(0)
    shape, size = (
        ((16, 12), (3, 5, 12)) if window is None else ((4, 3, 3, 3), (2, 3, 9, 8))
    )
    layer = Dense("w", torch.randn(shape), torch.randn(shape[0]), window)
    x = torch.randn(size)
    found = Bf16Layer(layer)(x)
    assert found.dtype == torch.float32
    assert 0 < largest_difference(found, layer(x)) < 2e-2


@pytest.mark.parametrize("shape", [(40,), (1, 40), (17, 40), (2, 5, 40), (0, 40)])
def test_int8_layers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 40)
    weight[3] = 0
    layer, x = Dense("w", weight, torch.randn(48)), torch.randn(shape)
    found = Int8Layer(layer)(x)
    assert largest_difference(found, layer(x)) < 2e-2
    x = x.reshape(-1, 40)[:1] * 0
    assert torch.equal(Int8Layer(layer)(x), layer(x))


def test_weights_that_are_loaded_later_are_packed_anew() -> None:
    torch.manual_seed(0)
    one, two = (Int8Layer(Dense("w", torch.randn(8, 8), torch.randn(8))) for _ in "ab")
    x = torch.randn(3, 8)
    before, wanted = one(x), two(x)
    assert torch.equal(one(x), before)
    one.load_state_dict(two.state_dict())
    assert torch.equal(one(x), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("target", ["auto", "dense"])
def test_compiled_whole(
    block: Any, favoured: None, precision: str, target: str
) -> None:
    model, x = block
    fast = sparsefx.lower(model, (x,), target, rounds=1, precision=precision)
    assert {row.precision for row in fast.report.layers} == {precision}
    assert changed(fast, model, x) < 0.05
    with torch.no_grad():
        whole = torch.compile(fast, fullgraph=True)(x)
        assert largest_difference(whole, model(x)) < 0.05


def test_layers_that_cannot_say_why() -> None:
    half = Dense("w", torch.ones(4, 4).bfloat16(), None)
    found = try_layer(half, torch.ones(2, 4).bfloat16(), "dense", 1, False, REDUCED)
    assert "bfloat16 already" in found.lost["dense bf16"]
    assert "float32" in found.lost["dense int8"]
    odd = Dense("w", torch.full((4, 4), math.inf), None)
    found = try_layer(odd, torch.ones(2, 4), "dense", 1, False, ("int8",))
    assert found.lost["dense int8"] == "weights are not finite"
