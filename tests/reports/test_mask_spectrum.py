"""Spectra of masks: golden examples, a dense reference, the report and its history."""

import json
import math
import resource
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsefx
from sparsefx import SpectralHistory
from sparsefx.reports.mask_spectrum import spectrum
from sparsefx.reports.singular_values import lanczos, top_two


def dense_top_two(matrix):
    values = torch.linalg.svdvals(matrix.double()).tolist()
    return (*values, 0.0)[:2]


def gap(rows):
    """Ramanujan gap of a dense 0/1 matrix (left x right), from its definition."""
    rows = rows[rows.sum(1) > 0][:, rows[rows.sum(1) > 0].sum(0) > 0]
    d_l, d_r = rows.sum() / len(rows), rows.sum() / rows.shape[1]
    bound = math.sqrt(d_l - 1) + math.sqrt(d_r - 1)
    return bound - dense_top_two(rows)[1], rows.shape


def iterated(rows, values, least, scaled):
    """IMDB and IMSG from their definitions, with dense singular values."""
    degrees = rows.sum(1)
    gaps, weighted = [], []
    for degree in degrees.unique():
        chosen = degrees == degree
        if degree == 0 or chosen.sum() < least:
            continue
        found, (n_l, n_r) = gap(rows[chosen])
        scale = max(n_l, n_r) / (n_l + n_r - 1) if scaled else 1.0
        first, second = dense_top_two(values[chosen])
        gaps.append(scale * found)
        weighted.append(scale * (first - second))
    return (
        (math.nan,) * 2
        if not gaps
        else tuple(sum(x) / len(x) for x in (gaps, weighted))
    )


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(2, 40), st.floats(0.1, 1))
def test_matches_a_dense_reference(
    seed: int, outputs: int, inputs: int, density: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(outputs, inputs, generator=draw) < density
    weight = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64)
    if not mask.any():
        assert spectrum(mask, weight).edges == 0
        return
    found = spectrum(mask, weight)
    rows, values = mask.T.double(), (weight * mask).abs().T
    first, second = dense_top_two(rows)
    assert found.top == pytest.approx(first, abs=1e-8)
    assert found.second == pytest.approx(second, abs=1e-8)
    first, second = dense_top_two(values)
    assert found.weighted_gap == pytest.approx(first - second, abs=1e-8)
    if min(found.left_degree, found.right_degree) > 1:
        assert found.ramanujan_gap == pytest.approx(float(gap(rows)[0]), abs=1e-8)
    n_l, n_r = (int((rows.sum(dim) > 0).sum()) for dim in (1, 0))
    edges, root, second = int(mask.sum()), math.sqrt(n_l * n_r), found.second
    mean_left = edges / n_l
    close = abs(2 * edges - mean_left / outputs * n_l * n_r)
    narc = ((second**2 / 4 + 1) * root - close) / mask.numel()
    assert found.iclr23.random_coefficient == pytest.approx(narc, abs=1e-8)
    close = abs(edges - mean_left * n_l * n_r / (n_l + n_r))
    narc = (second * root - close) / (n_l + n_r)
    assert found.neurips23.random_coefficient == pytest.approx(narc, abs=1e-8)
    for form, least, scaled in ((found.iclr23, 3, False), (found.neurips23, 2, True)):
        wanted = iterated(rows, values, least, scaled)
        got = form.ramanujan_gap, form.weighted_gap
        assert got == pytest.approx(tuple(map(float, wanted)), abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("shape", [(600, 700), (900, 650)])
def test_iterations_match_the_dense_values(shape: tuple[int, ...]) -> None:
    """The paths of large layers, through the Gram matrix and through Lanczos."""
    mask = torch.rand(shape) < 0.1
    weight = torch.randn(shape, dtype=torch.float64).abs() * mask
    rows, columns = mask.nonzero().unbind(1)
    for matrix in (mask.double(), weight):
        wanted = dense_top_two(matrix)
        assert top_two(rows, columns, matrix[mask]) == pytest.approx(wanted, abs=1e-8)
    few = weight[:300]
    rows, columns = few.nonzero().unbind(1)
    found = top_two(rows, columns, few[few != 0])
    assert found == pytest.approx(dense_top_two(few), abs=1e-8)


def test_lanczos_finds_double_values() -> None:
    blocks = torch.block_diag(*[torch.ones(32, 16)] * 4).double()
    found = lanczos(blocks.to_sparse(), blocks.T.to_sparse())
    assert found == pytest.approx((math.sqrt(512),) * 2, abs=1e-9)
    one = torch.ones(700, 600, dtype=torch.float64)
    found = lanczos(one.to_sparse(), one.T.to_sparse())
    assert found == pytest.approx((math.sqrt(420_000), 0), abs=1e-8)


def test_a_random_mask_of_the_dossier() -> None:
    """64 -> 128, a quarter kept: a draw near the published example's numbers."""
    mask = torch.zeros(128 * 64, dtype=torch.bool)
    mask[torch.randperm(128 * 64)[:2048]] = True
    found = spectrum(mask.view(128, 64), torch.randn(128, 64) / 8)
    assert (found.left_degree, found.right_degree) == (32, 16)
    assert found.top == pytest.approx(23.45, abs=0.15)
    assert found.second == pytest.approx(8.01, abs=0.4)
    assert found.ramanujan_gap == pytest.approx(1.434, abs=0.4)
    assert found.weighted_gap == pytest.approx(1.306, abs=0.15)
    assert found.iclr23.subgraphs == pytest.approx(12, abs=3)
    assert found.iclr23.ramanujan_gap == pytest.approx(1.033, abs=0.15)
    assert found.neurips23.ramanujan_gap == pytest.approx(1.0, abs=0.15)
    assert found.iclr23.weighted_gap == pytest.approx(0.217, abs=0.06)
    assert found.norm() == pytest.approx(2.2, abs=0.4)


def test_a_disconnected_mask_keeps_its_sign() -> None:
    blocks = torch.block_diag(*[torch.ones(32, 16)] * 4).bool()
    found = spectrum(blocks, torch.randn(128, 64) / 8)
    assert (found.top, found.second) == pytest.approx((22.627417,) * 2, abs=1e-6)
    gap = math.sqrt(31) + math.sqrt(15) - math.sqrt(512)
    assert found.ramanujan_gap == pytest.approx(gap)
    assert round(found.ramanujan_gap, 2) == -13.19
    assert found.weighted_gap == pytest.approx(0.114, abs=0.06)
    # one regular subgraph, so both gaps: the published norm hides that they are < 0
    assert found.norm() == pytest.approx(math.hypot(gap, gap), abs=0.01)
    assert found.norm() == pytest.approx(18.6, abs=0.1)


def test_a_complete_graph_without_a_matching() -> None:
    found = spectrum(~torch.eye(4, dtype=torch.bool))
    assert (found.top, found.second) == pytest.approx((3, 1))
    assert found.ramanujan_gap == pytest.approx(2 * math.sqrt(2) - 1)
    assert found.top_gap == pytest.approx(2 * math.sqrt(2) - 1)
    assert found.iclr23.random_coefficient == pytest.approx((1.25 * 4 - 12) / 16)
    assert found.neurips23.random_coefficient == pytest.approx((4 - abs(12 - 6)) / 8)
    assert found.neurips23.ramanujan_gap == pytest.approx(
        (2 * math.sqrt(2) - 1) * 4 / 7
    )


def test_what_is_not_defined_is_nan() -> None:
    single = torch.eye(5, dtype=torch.bool)
    assert math.isnan(spectrum(single).ramanujan_gap)
    empty = spectrum(torch.zeros(3, 4, dtype=torch.bool), name="dead")
    assert empty.density == 0
    assert math.isnan(empty.weighted_gap)
    with pytest.raises(sparsefx.MaskError, match="outputs first"):
        spectrum(torch.ones(3))
    with pytest.raises(sparsefx.MaskError, match=r"\(2, 4\) and \(3, 4\)"):
        spectrum(torch.ones(2, 4), torch.ones(3, 4))


def test_report_of_a_sparse_model_and_its_history(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 24, 3))
    x = torch.randn(2, 3, 8, 8)
    sparse = sparsefx.transform(net, "uniform", budget=0.5, example_inputs=(x,))
    history = SpectralHistory()
    report = history.record(sparse, 0)
    sparse(x).square().mean().backward()
    with torch.no_grad():
        for p in sparse.parameters():
            p -= 0.1 * torch.randn_like(p)
    sparsefx.step(sparse)
    after = history.record(sparse, 1)
    masks = sparsefx.masks(sparse)
    for layer in after.layers:
        assert layer.edges == int(masks[layer.name].sum())
        assert layer.density == pytest.approx(0.5, abs=0.01)
    assert after["1.weight"].second != report["1.weight"].second
    assert after.layers == sparsefx.spectral_report(sparse).layers
    gaps = [layer.ramanujan_gap for layer in after.layers]
    assert after.means()["ramanujan_gap"] == pytest.approx(sum(gaps) / 2)
    assert after.to_dict()["means"] == after.means()
    final = sparsefx.spectral_report(sparsefx.finalize(sparse))
    assert [x.edges for x in final.layers] == [x.edges for x in after.layers]
    assert "IMDB" in str(report)
    assert "50.0 %" in str(report)
    history.to_svg(tmp_path / "history.svg")
    history.to_json(tmp_path / "history.json")
    report.to_json(tmp_path / "report.json")
    assert "<polyline" in (tmp_path / "history.svg").read_text()
    read = json.loads((tmp_path / "history.json").read_text())
    assert [s["step"] for s in read["steps"]] == [0, 1]
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(sparsefx.MaskError, match="no masked weight"):
        report["nothing"]
    with pytest.raises(sparsefx.MaskError, match="ramanujan_gap"):
        history.series("1.weight", "nothing")


def test_means_are_over_the_layers_that_have_a_quantity() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    for layer, kept in zip(net, (1 - torch.eye(4), torch.eye(4)), strict=True):
        layer.weight.data.mul_(kept)
    report = sparsefx.spectral_report(net)
    assert math.isnan(report["1.weight"].ramanujan_gap)
    means = report.means()
    assert means["ramanujan_gap"] == report["0.weight"].ramanujan_gap
    both = [layer.weighted_gap for layer in report.layers]
    assert means["weighted_gap"] == pytest.approx(sum(both) / 2)
    alone = sparsefx.spectral_report(net[1])
    assert math.isnan(alone.means()["ramanujan_gap"])
    assert alone.to_dict()["means"]["ramanujan_gap"] is None


def test_report_needs_a_mask_and_a_plot_a_history(tmp_path: Path) -> None:
    with pytest.raises(sparsefx.MaskError, match="no mask to analyse"):
        sparsefx.spectral_report(torch.nn.ReLU())
    with pytest.raises(sparsefx.MaskError, match="record"):
        SpectralHistory().to_svg(tmp_path / "nothing.svg")


def memory():
    """The most bytes that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
def test_a_large_mask_takes_seconds() -> None:
    mask = torch.rand(4096, 4096) < 0.05
    weight = torch.randn(4096, 4096)
    start, before = time.perf_counter(), memory()
    found = spectrum(mask, weight)
    assert time.perf_counter() - start < 10
    assert memory() - before < 2e9
    # the semi-circle law: the second value of a random mask is near its edge
    edge = 2 * math.sqrt(4096 * 0.05 * 0.95)
    assert found.second == pytest.approx(edge, rel=0.01)
