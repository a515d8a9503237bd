"""What finalize and lower return goes through torch.export, ONNX and AOTInductor."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsefx
from sparsefx.lowering import package
from tests.lowering.test_lower_model import Branching
from tests.lowering.thin_models import Block, thinned

X = torch.linspace(-3, 3, 2 * 50 * 32).sin().reshape(2, 50, 32)


@pytest.fixture(scope="module")
def finalized():
    torch.manual_seed(0)
    sparse = sparsefx.transform(Block(), budget=0.1, example_inputs=(X,))
    return sparsefx.finalize(sparse).eval()


@pytest.fixture(scope="module")
def lowered(finalized):
    return sparsefx.lower(finalized, (X,), "csr", compile=False, rounds=1)


def test_finalized_models_export_with_their_zeros(finalized: Any) -> None:
    program = torch.export.export(finalized, (X,))
    torch.testing.assert_close(program.module()(X), finalized(X))
    weight = program.state_dict["fc1.weight"]
    assert torch.equal(weight, finalized.fc1.weight)
    assert weight.count_nonzero() < 0.3 * weight.numel()


# of torch's own loader, before 2.12
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_lowered_models_export(finalized: Any, lowered: Any, tmp_path: Path) -> None:
    program = torch.export.export(lowered, (X,))
    torch.testing.assert_close(program.module()(X), finalized(X), atol=1e-5, rtol=1e-4)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(loaded(X), program.module()(X))
    other = torch.export.export(lowered, (X[:, :7],)).module()
    torch.testing.assert_close(
        other(X[:, :7]), finalized(X[:, :7]), atol=1e-5, rtol=1e-4
    )


def missing(*names):
    return [name for name in names if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(
    bool(missing("onnx", "onnxruntime", "onnxscript")),
    reason="onnx, onnxruntime or onnxscript is not installed: pip install '.[onnx]'",
)
def test_onnx_runs_finalized_models(finalized: Any, tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(finalized, (X,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    wanted = finalized(X).detach()
    gap = (torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max()
    assert gap < 1e-5


@pytest.mark.slow
def test_packages_run(finalized: Any, lowered: Any, tmp_path: Path) -> None:
    path = package(lowered, (X,), tmp_path / "model.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch._inductor.aoti_load_package(str(path))(X)
    torch.testing.assert_close(found, finalized(X), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_packaged_says_why(
    lowered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_):
        raise RuntimeError("no compiler\nlong trace")

    monkeypatch.setattr("sparsefx.lowering.aot_package.aoti_package", refuse)
    with pytest.raises(sparsefx.SparsefxError, match=r"here: no compiler; on a"):
        package(lowered, (X,), tmp_path / "model.pt2")
    branching = sparsefx.lower(thinned(Branching()), (X,), "csr", compile=False)
    with pytest.raises(sparsefx.SparsefxError, match=r"torch\.export cannot take"):
        package(branching, (X,), tmp_path / "model.pt2")
    with pytest.raises(sparsefx.SparsefxError, match=r"ends in \.pt2"):
        package(lowered, (X,), tmp_path / "model.zip")
