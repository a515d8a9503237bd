import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.cli import budget_of, example_inputs, load_model, main
from sparsefx.errors import SparsefxError

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def text():
    return "no model"

tree = nn.Sequential(nn.Linear(2, 2))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("cli_models", None)
    return "cli_models:build"


def test_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies"]) == 0
    out = capsys.readouterr().out
    for name in sparsefx.policies():
        assert f"\n{name} " in out


def test_costs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", model, "--input", "3,8"]) == 0
    out = capsys.readouterr().out
    assert "0.weight" in out
    assert "576" in out  # 3 * (8 * 16 + 16 * 4)


def test_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transform", model, "--dry-run", "--policy", "uniform"]
    assert main([*command, "--budget", "0.25", "--input", "1,8"]) == 0
    out = capsys.readouterr().out
    assert "policy uniform" in out
    assert "macs: 48 of 48 allowed (25.000 % of dense): met" in out


def test_plan_with_a_named_budget(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transform", model, "--dry-run", "--input", "1,8"]
    assert main([*command, "--budget", "params=50%"]) == 0
    assert "params: 96 of 96 allowed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["transform", "MODEL"], "add --dry-run"),
        (["transform", "MODEL", "--dry-run", "--policy", "erq"], "erk"),
        (["transform", "MODEL", "--dry-run", "--budget", "0"], "not positive"),
        (["transform", "MODEL", "--dry-run", "--input", "1,x"], "is not a shape"),
        (["costs", "cli_models"], "package.module:callable"),
        (["costs", "no_such_module:build"], "cannot be loaded"),
        (["costs", "cli_models:missing"], "cannot be loaded"),
        (["costs", "cli_models:text"], "gives a str"),
        (["report", "missing.json"], "missing.json cannot be read"),
        (["demo", "--seeds", "0"], "at least 1"),
    ],
)
def test_refusals_exit_with_2_and_no_traceback(
    command: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model if word == "MODEL" else word for word in command]) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith("sparsefx: ")
    assert message in caught.err
    assert "Traceback" not in caught.err
    assert not caught.out


def test_report_prints_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = nn.Linear(4, 2)
    sparse = sparsefx.transform(net, budget=0.5, example_inputs=(torch.ones(1, 4),))
    report = sparsefx.report(sparse)
    report.to_json(tmp_path / "report.json")
    assert main(["report", str(tmp_path / "report.json")]) == 0
    assert capsys.readouterr().out == f"{report}\n"


@pytest.mark.parametrize("text", ["{}", "no JSON", json.dumps({"layers": []})])
def test_report_of_something_else(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text(text)
    assert main(["report", str(tmp_path / "other.json")]) == 2
    assert "other.json cannot be read" in capsys.readouterr().err or text != "no JSON"


def test_models_may_be_modules_or_nested_names(model: str) -> None:
    assert isinstance(load_model("cli_models:tree"), nn.Sequential)
    assert isinstance(load_model("torch:nn.Identity"), nn.Identity)


def test_inputs() -> None:
    inputs = example_inputs(["1,3,4", "2,5:int64"])
    assert inputs is not None
    assert [(tuple(x.shape), x.dtype) for x in inputs] == [
        ((1, 3, 4), torch.float32),
        ((2, 5), torch.int64),
    ]
    assert example_inputs([]) is None


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0,2", "-1", "1,2:int65", "1:nn"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(SparsefxError, match=r"is not a shape; .*1,128:int64"):
        example_inputs([text])


def test_budgets() -> None:
    assert budget_of(["25%"]) == "25%"
    assert budget_of(["5 MB"]) == "5 MB"
    assert budget_of(["macs=0.1", "bytes=5 MB"]) == {"macs": 0.1, "bytes": "5 MB"}
    with pytest.raises(SparsefxError, match="does not say what it limits"):
        budget_of(["macs=0.1", "0.2"])


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", "policies", "costs", "transform", "report", "demo"):
        with pytest.raises(SystemExit) as stop:
            main([*([command] if command else []), "--help"])
        assert stop.value.code == 0
        assert "usage: sparsefx" in capsys.readouterr().out


def test_module_runs() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "sparsefx", "report", "missing.json"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("sparsefx: missing.json cannot be read")
