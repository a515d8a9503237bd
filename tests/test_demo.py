import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sparsefx
from sparsefx import demo
from sparsefx.errors import SparsefxError
from sparsefx.reports.report import Report
from sparsefx.reports.report_rows import BudgetReport, Cost, LayerReport, Total


@pytest.mark.parametrize("recipe", demo.RECIPES, ids=lambda recipe: recipe.name)
def test_models_take_any_batch(recipe: demo.Recipe) -> None:
    model = recipe.build().eval()
    images = torch.randn(5, 1, 8, 8)
    logits = model(images)
    assert logits.shape == (5, 10)
    torch.testing.assert_close(model(images[:1]), logits[:1])


# The tokens' offsets are added, not multiplied by: they stay dense.
@pytest.mark.filterwarnings("ignore:2 weights stay dense")
@pytest.mark.parametrize("recipe", demo.RECIPES, ids=lambda recipe: recipe.name)
def test_models_are_one_graph_with_a_free_batch(recipe: demo.Recipe) -> None:
    torch.manual_seed(0)
    sparse = sparsefx.transform(
        recipe.build(),
        budget=demo.BUDGET,
        example_inputs=(torch.randn(2, 1, 8, 8),),
    )
    (graph,) = sparsefx.graphs(sparse).values()
    assert graph(torch.randn(7, 1, 8, 8)).shape == (7, 10)
    lines = demo.excerpt(graph, "head.weight").splitlines()
    assert "    head_weight = self.head.weight" in lines
    assert any(".masked_weight_" in line and "(head_weight)" in line for line in lines)
    assert ".linear(" in lines[-1]


def test_split_is_fixed_and_scaled() -> None:
    pytest.importorskip("sklearn")
    train, test = demo.digits()
    assert train.images.shape == (1347, 1, 8, 8)
    assert test.images.shape == (450, 1, 8, 8)
    assert train.images.min() == -1
    assert train.images.max() == 1
    assert torch.equal(demo.digits()[1].labels, test.labels)


def test_batches_are_whole_and_hold_no_image_twice_an_epoch() -> None:
    labels = torch.arange(150)
    split = demo.Split(labels.view(150, 1, 1, 1).float(), labels)
    batches = list(split.batches(2, torch.Generator().manual_seed(0)))
    assert [len(chosen) for _, chosen in batches] == [64, 64] * 2
    assert all(torch.equal(x.flatten().long(), chosen) for x, chosen in batches)
    for epoch in (batches[:2], batches[2:]):
        seen = torch.cat([chosen for _, chosen in epoch])
        assert len(seen.unique()) == 128


def report_of(kept: float, limit: float = 10.0, met: bool = True) -> Report:
    layer = LayerReport(
        "fc", "linear", (5, 10), "unstructured", 0.1, {"macs": Cost(kept, 100)}
    )
    return Report(
        policy="cost_budget",
        step=1,
        frozen=True,
        layers=(layer,),
        totals={"macs": Total(kept, 100, 0, 100)},
        budgets={"macs": BudgetReport(limit, kept, met)},
        coverage=(),
    )


@pytest.mark.parametrize("kept", [10.0, 9.0])
def test_budget_kept(kept: float) -> None:
    demo.check_budget("net", report_of(kept))


def test_budget_exceeded_is_an_error() -> None:
    with pytest.raises(SparsefxError, match="net: 12 MACs are kept, above 10% of 100"):
        demo.check_budget("net", report_of(12, limit=12))


def test_budget_left_over_is_an_error() -> None:
    with pytest.raises(SparsefxError, match="2 MACs are left over"):
        demo.check_budget("net", report_of(8))


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(
        SparsefxError, match=r'sklearn and tqdm; .* pip install "sparsefx\[examples\]"'
    ):
        demo.run(tmp_path)


def test_run_prints_and_writes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    train, test = demo.digits()
    few = SimpleNamespace(
        train=demo.Split(train.images[:128], train.labels[:128]), test=test
    )
    monkeypatch.setattr(demo, "digits", lambda: (few.train, few.test))
    monkeypatch.setattr(demo, "RECIPES", demo.RECIPES[:1])
    demo.run(tmp_path / "out", seeds=1, epochs=3)
    out = capsys.readouterr().out
    assert out.count("head_weight = self.head.weight") == 2
    assert re.search(r"macs: .* \((9\.99\d|10\.000) % of dense\): met", out)
    assert re.search(r"conv +0 +\d+\.\d\d % +\d+\.\d\d % +[-+]\d", out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "conv_report.html",
        "conv_report.svg",
        "conv_report.json",
        "conv_graph.svg",
        "conv_graph.html",
    }
