import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.cli import main
from sparsefx.commands.given_model import load_model
from sparsefx.policies.presets import preset_names as presets

COMMANDS = (
    "policies", "costs", "capture", "plan", "lower", "draw", "report", "diff", "demo",
)  # fmt: skip
MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def text():
    return "no model"

def broken():
    return 1 / 0

tree = nn.Sequential(nn.Linear(2, 2))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("cli_models", None)
    return "cli_models:build"


def words(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What a command that succeeds prints."""
    assert main(command) == 0
    return capsys.readouterr().out


def test_policies(capsys: pytest.CaptureFixture[str]) -> None:
    out = words(capsys, "policies")
    for name in presets():
        assert f"\n{name} " in out
    assert "Small and thin layers keep more" in out


@pytest.mark.parametrize("name", presets())
def test_a_policy_shows_what_differs_from_the_default(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, default = sparsefx.load_policy(name), sparsefx.load_policy("cost_budget")
    shown = json.loads(words(capsys, "policies", name, "--json"))
    told = {row["field"] for row in shown["rows"]}
    assert told == {
        field.name
        for field in dataclasses.fields(policy)
        if getattr(policy, field.name) != getattr(default, field.name)
    }
    assert len(shown["more"][1]) > 20  # what it is for


def test_costs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", model, "--input", "3,8"]) == 0
    out = capsys.readouterr().out
    assert "0.weight" in out
    assert "576" in out  # 3 * (8 * 16 + 16 * 4)


def test_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", model, "--policy", "uniform"]
    assert main([*command, "--budget", "0.25", "--input", "1,8"]) == 0
    out = capsys.readouterr().out
    assert "policy uniform" in out
    assert "macs: 48 of 48 allowed (25.000 % of dense): met" in out


def test_plan_with_a_named_budget(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", model, "--input", "1,8"]
    assert main([*command, "--budget", "params=50%"]) == 0
    assert "params: 96 of 96 allowed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["plan", "MODEL", "--kwargs", "[1]"], "is not a JSON object"),
        (["plan", "MODEL", "--kwargs", '{"depth": 2}'], "cannot be built: TypeError"),
        (["plan", "MODEL", "--budget", "a=1", "--budget", "a=2"], "given twice"),
        (["capture", "torch.nn:Identity"], "add --input"),
        (["draw", "MODEL", "--input", "1,8", "--out", "a.png"], ".svg, .html"),
        (["draw", "MODEL", "--input", "1,8", "--out", "no/a.svg"], "No such file"),
        (["lower", "MODEL", "--input", "1,8", "--weights", "no.pt"], "no.pt cannot be"),
        (
            ["lower", "MODEL", "--input", "1,8", "--weights", "no.safetensors"],
            "is not ",
        ),
        (["costs", "cli_models:broken"], "cannot be built: ZeroDivisionError"),
        (["costs", "missing.py:build"], "cannot be loaded: FileNotFoundError"),
        (["lower", "MODEL", "--input", "1,8", "--tolerance", "-1"], "tolerance"),
        (["policies", "gpm"], "did you mean 'gmp'"),
        (["diff", "missing.json", "missing.json"], "missing.json cannot be read"),
        (["plan", "MODEL", "--policy", "erq"], "erk"),
        (["plan", "MODEL", "--budget", "0"], "not positive"),
        (["plan", "MODEL", "--input", "1,x"], "is not a shape"),
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


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", *COMMANDS):
        with pytest.raises(SystemExit) as stop:
            main([*([command] if command else []), "--help"])
        assert stop.value.code == 0
        assert "usage: sparsefx" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sparsefx {sparsefx.__version__}\n"


def test_json_is_what_the_values_hold(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (model, "--input", "3,8", "--json")
    costs = json.loads(words(capsys, "costs", *given))
    assert costs["totals"]["macs"]["total"] == 576
    plan = json.loads(words(capsys, "plan", *given, "--budget", "0.5"))
    assert plan["budgets"]["macs"] == {"limit": 288, "kept": 288, "met": True}
    captured = json.loads(words(capsys, "capture", *given))
    assert {row["masked"] for row in captured["coverage"]} == {"graph"}


def test_draws_what_is_and_what_a_policy_makes(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("draw", model, "--input", "1,8", "--out")
    assert words(capsys, *given, "a.dot") == "written to a.dot\n"
    words(capsys, *given, "b.dot", "--policy", "uniform")
    plain, masked = Path("a.dot").read_text(), Path("b.dot").read_text()
    assert "mask" not in plain
    assert "masked" in masked


def test_lowers_what_was_saved(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    net = load_model(model)
    sparse = sparsefx.transform(net, budget=0.25, example_inputs=(torch.ones(1, 8),))
    sparsefx.save(sparse, "sparse.safetensors")
    torch.save(sparsefx.finalize(sparse).state_dict(), "dense.pt")
    given = ("lower", model, "--input", "1,8", "--no-compile", "--target", "csr")
    for more in (("--weights", "sparse.safetensors"), ("--weights", "dense.pt"),
                 ("--budget", "0.25")):  # fmt: skip
        rows = json.loads(words(capsys, *given, *more, "--json"))["layers"]
        assert {row["chosen"] for row in rows} == {"csr"}
        kept = sum(round(row["density"] * 16 * row["shape"][0] * 0.5) for row in rows)
        assert 0 < kept <= 48


def test_reports_become_pages_and_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.ones(1, 4)
    paths = [str(tmp_path / f"{budget}.json") for budget in (0.5, 0.25)]
    for path, budget in zip(paths, (0.5, 0.25), strict=True):
        sparse = sparsefx.transform(net, "uniform", budget=budget, example_inputs=(x,))
        sparsefx.report(sparse).to_json(path)
    page = str(tmp_path / "page.html")
    assert words(capsys, "report", paths[0], "--html", page).startswith("written to")
    assert "<html" in Path(page).read_text()
    out = words(capsys, "diff", *paths)
    assert "50.0 %   25.0 %         -25.0" in out
    assert "macs: 12 of 24 kept to 6 of 24 kept" in out
    assert (
        words(capsys, "diff", paths[0], paths[0]) == "no layer and no total differs\n"
    )


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
