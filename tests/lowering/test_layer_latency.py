"""The times of single layers: lines that fit them, what is remembered."""

import json
from typing import Any

import pytest
import torch

import sparsefx
from sparsefx.lowering import layer_latency, layer_trial
from sparsefx.lowering.dense_layer import Dense
from sparsefx.lowering.layer_latency import measure, measure_layer
from sparsefx.masking.site import Site
from tests.lowering.timed_net import X, net

pytestmark = pytest.mark.usefixtures("cache")


def test_a_line_fits_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(calls, device, rounds):
        return {
            name: 2.0 if name == "dense" else 0.5 + (name == "csr 1")
            for name in calls
        }  # fmt: skip

    monkeypatch.setattr(layer_trial, "interleaved", clock)
    line = measure_layer(Dense("w", torch.randn(16, 16), None), torch.randn(3, 16))
    assert (line.dense, line.form) == (2.0, "csr")
    assert (line.fixed, line.slope) == pytest.approx((0.5, 0.0))
    assert line.residual < 1e-9
    assert line.even == 1.0
    fitted = layer_latency._fitted([0.7, 0.9, 1.3], [0.05, 0.1, 0.2], 2.0, "csr")
    assert (fitted.fixed, fitted.slope) == pytest.approx((0.5, 4.0))
    assert fitted.even == pytest.approx(0.375)
    assert fitted.at(1.3) == pytest.approx(0.2)


def test_a_line_in_fewer_bits_is_held_against_dense_in_fewer_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"dense": 4.0, "dense int8": 1.0, "csr": 2.0, "csr int8": 0.25}

    def clock(calls, device, rounds):
        return {name: times.get(name.rpartition(" ")[0], 4.0) for name in calls}

    monkeypatch.setattr(layer_trial, "interleaved", clock)
    layer, x = Dense("w", torch.randn(32, 32), None), torch.randn(3, 32)
    assert measure_layer(layer, x).dense == 4.0
    line = measure_layer(layer, x, precision="int8")
    assert (line.dense, line.form) == (1.0, "csr int8")
    assert (line.fixed, line.slope) == pytest.approx((0.25, 0.0))


def test_blocks_are_timed_as_blocks() -> None:
    blocks = sparsefx.Granularity("block", (16, 16))
    site = Site("w", "", "linear", (64, 64), {}, granularity=blocks)
    mask = layer_latency.largest(torch.rand(64, 64), 0.25, site)
    assert mask.sum() == 4 * 256
    assert (
        mask[::16, ::16].repeat_interleave(16, 0).repeat_interleave(16, 1).equal(mask)
    )


def test_measurements_are_remembered(
    cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_latency, "can_compile", lambda device: False)
    found = measure(net(), (X,))
    assert set(found.lines) == {"0.weight", "2.weight"}
    assert all(line.dense > 0 for line in found.lines.values())
    assert "residual" in str(found)
    assert len(json.loads(cache.read_text())["lines"]) == 2
    monkeypatch.setattr(layer_latency, "measure_layer", None)  # would fail if called
    again = measure(net(), (X,))
    assert again.lines == found.lines
    with pytest.raises(TypeError):
        measure(net(), (X,), precision="int8")  # is another measurement
    cache.write_text("no json")
    with pytest.raises(TypeError):
        measure(net(), (X,))


def test_times_of_other_products_are_not_remembered(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, keys = Dense("w", torch.ones(4, 4), None), set()
    source = tmp_path / "products.cpp"
    monkeypatch.setattr(layer_latency, "SOURCES", (source,))
    for text in ("before", "after", "after"):
        source.write_text(text)
        keys.add(layer_latency.key_of(layer, torch.ones(2, 4)))
    assert len(keys) == 2
