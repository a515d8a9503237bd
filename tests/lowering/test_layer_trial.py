"""What is chosen is what was timed, and what lost says by how much."""

from collections.abc import Callable

import pytest
import torch

from sparsefx import SparsefxError, lower
from sparsefx.lowering.dense_layer import Dense
from sparsefx.lowering.layer_forms import FORMS, CompressedLayer
from sparsefx.lowering.layer_trial import try_layer
from sparsefx.lowering.packed_layer import PackedLayer
from sparsefx.lowering.timing import interleaved

CPU = torch.device("cpu")


def test_the_fastest_wins_and_the_rest_say_by_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"dense": 10.0, "removal 0": 8.0, "bsr 0": 20.0}
    makers = len(FORMS["csr"])
    times |= {f"csr {i}": 4.0 for i in range(makers)} | {f"csr {makers - 1}": 2.0}
    monkeypatch.setattr(
        "sparsefx.lowering.layer_trial.interleaved",
        lambda calls, *_: {name: times[name] for name in calls},
    )
    weight = torch.zeros(16, 16)
    weight[:8, :8] = 1
    layer = Dense("w", weight, None)
    trial = try_layer(layer, torch.randn(3, 16))
    assert trial.chosen == "csr"
    assert trial.module.kernel == "csr"
    assert trial.gain == 5
    assert trial.times == {"dense": 10, "removal": 8, "csr": 2, "bsr": 20}
    assert trial.lost["bsr"] == "0.5x"
    assert trial.lost["removal"] == "1.2x"
    assert trial.lost["semi_structured"] == "no 2:4 pattern"
    times |= {"removal 0": 9.9, f"csr {makers - 1}": 12.0}
    times |= {f"csr {i}": 9.9 for i in range(makers - 1)}
    trial = try_layer(layer, torch.randn(3, 16))  # 1 % is noise
    assert trial.chosen == "dense"
    assert trial.module is None
    assert try_layer(layer, torch.randn(3, 16), "bsr").chosen == "bsr"


def test_a_form_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (CompressedLayer, PackedLayer):
        monkeypatch.setattr(kind, "forward", lambda self, x: x * 0)
    layer = Dense("w", torch.eye(16), None)
    trial = try_layer(layer, torch.randn(3, 16), rounds=1)
    assert trial.chosen == "dense"
    assert trial.lost["csr"] == "differs by 1 of the largest output"


def test_what_cannot_win_is_measured_twice() -> None:
    counts = {"first": 0, "equal": 0, "slow": 0}

    def call(name: str, size: int) -> Callable[[], object]:
        x = torch.randn(size, size)

        def run() -> object:
            counts[name] += 1
            return x @ x

        return run

    calls = {"first": call("first", 64), "equal": call("equal", 64)}
    times = interleaved({**calls, "slow": call("slow", 640)}, CPU, 5)
    assert counts["slow"] == 3  # one to warm up
    assert min(counts["first"], counts["equal"]) >= 2 + 5
    assert times["slow"] > times["first"]


def test_interleaved_times() -> None:
    slow, quick = torch.randn(200, 200), torch.randn(2, 2)
    times = interleaved({"a": lambda: slow @ slow, "b": lambda: quick @ quick}, CPU, 3)
    assert times["a"] > times["b"] > 0


@pytest.mark.parametrize("fastest", ["csr", "bsr"])
def test_sparse_is_the_fastest_sparse_form(
    fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the dense layer is faster."""
    times = {"dense": 1.0, "csr": 3.0, "bsr": 3.0} | {fastest: 2.0}
    monkeypatch.setattr(
        "sparsefx.lowering.layer_trial.interleaved",
        lambda calls, *_: {name: times.get(name.split()[0], 9.0) for name in calls},
    )
    weight = torch.randn(64, 64)
    weight[:, :32] = 0
    layer, x = Dense("w", weight, None), torch.randn(3, 64)
    assert try_layer(layer, x, "sparse").chosen == fastest
    assert try_layer(layer, x, "auto").chosen == "dense"


def test_what_has_no_zeros_becomes_no_sparse_form() -> None:
    with pytest.raises(SparsefxError, match=r"become sparse .*no zeros"):
        lower(torch.nn.Linear(4, 4), (torch.ones(1, 4),), "sparse", rounds=1)
