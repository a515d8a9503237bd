"""A transform records its model once, whatever is made of the graph."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.errors import CaptureError
from sparsefx.tracing import record_module
from tests.unit_networks import Block, FusedAttention, Gelu, Vit


def network() -> nn.Module:
    torch.manual_seed(0)
    return Vit(Block(8, FusedAttention(8, 2), Gelu(8, 12)), width=8)


def pictures(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(rows))


TOKENS = {"before": "blocks.0", "keep": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("cost_budget", {}),
    "units": ("svite_units", {"budget": 0.9}),
    "tokens": ("svite_tokens", {"tokens": TOKENS, "budget": 0.9}),
    "tokens of a budget": (
        "svite_tokens",
        {"tokens": {"before": "blocks.0"}, "budget": 0.8},
    ),
    "tokens and units": ("svite_units", {"tokens": TOKENS, "budget": 0.8}),
    "tokens and weights": ("svite_joint", {"tokens": TOKENS}),
    "units and weights": ("spartan", {"unit_density": 0.5}),
    "wide": ("sparse_wide", {}),
    "parallel": ("sparse_parallel", {}),
    "factorized": ("sparse_factorized", {}),
    "doped": ("sparse_doped", {}),
    "wide, granet": ("sparse_wide", {"learner": "granet"}),
}


QUICK = ("weights", "tokens and units", "units and weights", "wide")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES],
)
def test_a_transform_records_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    record = record_module.record

    def counted(root: nn.Module, *rest: Any, **options: Any) -> Any:
        modes.append(root.training)
        return record(root, *rest, **options)

    monkeypatch.setattr(record_module, "record", counted)
    policy, options = CASES[case]
    sparse = sparsefx.transform(
        network(), policy, example_inputs=(pictures(),), total_steps=8, **options
    )
    assert modes == [True, False]
    assert list(sparsefx.graphs(sparse)) == [""]
    plain = sparsefx.finalize(sparse.eval())
    for rows in (1, 3):
        torch.testing.assert_close(sparse(pictures(rows)), plain(pictures(rows)))


@pytest.mark.parametrize("preset", ["sparse_wide", "svite_tokens"])
def test_a_wrong_recording_is_caught(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_module.record

    def wrong(*args: Any, **options: Any) -> Any:
        found = record(*args, **options)
        for node in found.graph.nodes:
            if node.target is F.layer_norm:
                node.args = (*node.args[:4], 0.1)
        return found

    monkeypatch.setattr(record_module, "record", wrong)
    with pytest.raises(CaptureError, match="the recorded graph is not the module"):
        sparsefx.transform(network(), preset, example_inputs=(pictures(),))


def test_one_call_in_a_list_is_a_call() -> None:
    net, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)),
        torch.ones(3, 4),
    )
    sparse = sparsefx.transform(net, "sparse_parallel", example_inputs=[(x,)])
    assert sparse(x).shape == (3, 8)


class Few(nn.Module):
    """Other code for small batches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x).relu())
        return y if x.shape[0] > 2 else y * 2


def test_a_rewrite_says_for_which_batches_it_stands() -> None:
    net, x = Few(), torch.randn(4, 4)
    with pytest.warns(UserWarning, match=r"other code unless .*batch > 2, which"):
        sparse = sparsefx.transform(net, "sparse_parallel", example_inputs=(x,))
    assert sparse(x).shape == (4, 8)
