import base64
import json
import math
import re
from pathlib import Path

import pytest

from sparsefx.errors import SparsefxError
from sparsefx.reports.report import Report
from sparsefx.reports.report_rows import (
    BudgetReport,
    Cost,
    Coverage,
    HistoryPoint,
    LayerReport,
    Total,
    Training,
)
from sparsefx.reports.text_table import human, percent, text_table


def make_report(**changes: object) -> Report:
    layers = (
        LayerReport(
            "stem.weight",
            "conv2d",
            (4, 1, 3, 3),
            "unstructured",
            0.5,
            {"macs": Cost(18 * 64, 36 * 64), "params": Cost(18, 36)},
        ),
        LayerReport(
            "blocks.0.<odd> & 'quoted'.weight.of.a.very.long.name",
            "linear",
            (10, 64),
            "unstructured",
            0.1,
            {"macs": Cost(64, 640), "params": Cost(64, 640)},
        ),
    )
    fields: dict[str, object] = {
        "policy": "cost_budget",
        "step": 30,
        "frozen": True,
        "layers": layers,
        "totals": {
            "macs": Total(1216, 2944, 100, 2944),
            "params": Total(82, 676, 14, 676),
        },
        "budgets": {"macs": BudgetReport(1220.5, 1216, True)},
        "coverage": (
            Coverage("stem.weight", "stem", "graph"),
            Coverage("head.weight", "head", "property"),
            *(Coverage(f"{c}.bias", c, None, "a bias") for c in "abcde"),
            Coverage("scale", "", None, "no operation uses it"),
        ),
        "history": tuple(
            HistoryPoint(s, 2944 - 60 * s, 2944 - 60 * s, 2940 - 60 * s)
            for s in range(30)
        ),
        "training": Training(30, 70656, 265080, 0.75),
    }
    return Report(**{**fields, **changes})  # type: ignore[arg-type]


def test_dict_has_the_promised_shape_and_plain_numbers() -> None:
    data = make_report().to_dict()
    assert data["layers"][0] == {
        "name": "stem.weight",
        "op": "conv2d",
        "shape": [4, 1, 3, 3],
        "granularity": "unstructured",
        "density": 0.5,
        "costs": {
            "macs": {"kept": 1152, "dense": 2304},
            "params": {"kept": 18, "dense": 36},
        },
        "execution": "masked",
    }
    assert data["totals"]["macs"] == {
        "kept": 1216,
        "dense": 2944,
        "fixed": 100,
        "original": 2944,
    }
    assert data["budgets"] == {"macs": {"limit": 1220.5, "kept": 1216, "met": True}}
    assert data["budgets"]["macs"]["met"] is True
    assert data["coverage"][2] == {
        "parameter": "a.bias",
        "module": "a",
        "masked": None,
        "reason": "a bias",
    }
    assert type(data["totals"]["macs"]["kept"]) is int
    assert json.loads(json.dumps(data)) == data


def test_whole_floats_become_ints() -> None:
    report = make_report(totals={"macs": Total(1.0, 2.5, math.inf, 2.0)}, budgets={})
    assert report.to_dict()["totals"]["macs"] == {
        "kept": 1,
        "dense": 2.5,
        "fixed": math.inf,
        "original": 2,
    }


def test_json_round_trip(tmp_path: Path) -> None:
    report = make_report()
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert Report.from_dict(data) == report


@pytest.mark.parametrize("data", [{}, [], {"policy": "x"}, 3])
def test_something_else_is_no_report(data: object) -> None:
    with pytest.raises(SparsefxError, match=r"not a report .*to_json"):
        Report.from_dict(data)  # type: ignore[arg-type]


def test_unknown_keys_are_refused() -> None:
    data = make_report().to_dict()
    data["coverage"][0]["colour"] = "red"
    with pytest.raises(SparsefxError, match="colour"):
        Report.from_dict(data)


def test_table_says_what_is_kept() -> None:
    text = str(make_report())
    assert text.startswith("policy cost_budget, step 30, frozen\n")
    assert re.search(
        r"^stem.weight +conv2d +4x1x3x3 +unstructured +50.0 % +1.15 k +2.30 k +50.0 %$",
        text,
        re.MULTILINE,
    )
    assert "macs: 1.22 k of 1.22 k allowed (41.304 % of dense): met\n" in text
    assert "macs: 100 more are fixed, no mask can drop them" in text
    assert "training so far: 26.7 % of dense MACs, 75.0 % of weights kept at " in text
    assert "2 of 8 parameters masked; not masked:" in text
    assert "  a.bias, b.bias, c.bias and 2 more: a bias\n" in text
    assert text.endswith("  scale: no operation uses it")
    widths = {len(line) for line in text.splitlines() if "unstructured" in line}
    assert len(widths) == 1


def test_a_missed_budget_is_loud() -> None:
    report = make_report(budgets={"macs": BudgetReport(1000, 1216, False)})
    assert "NOT met" in str(report)


def test_no_budget_and_no_layers() -> None:
    report = make_report(
        layers=(), totals={"macs": Total(0, 0, 9, 0)}, budgets={}, coverage=()
    )
    assert "total" in str(report)
    assert report.cost_names == ("macs",)


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    report = make_report()
    report.to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<odd>" not in text
    assert "&lt;odd&gt; &amp;" in text
    assert "41.304 %" in text
    assert "<script" not in text
    links = re.findall(r"https?://[^\"' <]+", text)
    assert set(links) == {"http://www.w3.org/2000/svg"}
    assert text.count("<polyline") == 3
    assert "prefers-color-scheme: dark" in text


def test_a_notebook_shows_verdict_picture_and_layers() -> None:
    cell = make_report()._repr_html_()
    assert "macs: 1.22 k of 1.22 k allowed (41.304 % of dense): met" in cell
    assert "<odd>" not in cell
    assert "&lt;odd&gt; &amp;" in cell
    assert "<style" not in cell  # it would be the whole notebook's
    (picture,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', cell)
    assert base64.b64decode(picture).count(b"<polyline") == 3


def test_svg_is_well_formed(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    make_report().to_svg(tmp_path / "report.svg")
    root = ElementTree.parse(tmp_path / "report.svg").getroot()
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("polyline") == 3
    # a track and a filled part: two layers, density and macs; and the paper
    assert names.count("rect") == 2 * 2 * 2 + 1


def test_long_history_is_thinned_and_keeps_its_end(tmp_path: Path) -> None:
    history = tuple(HistoryPoint(s, 2944.0, 2944.0, 2944.0) for s in range(10_001))
    make_report(history=history).to_svg(tmp_path / "report.svg")
    text = (tmp_path / "report.svg").read_text(encoding="utf-8")
    points = re.findall(r'points="([^"]*)"', text)[0].split()
    assert len(points) < 500
    assert points[-1].startswith("850.0,")


def test_a_bar_is_as_long_as_its_share(tmp_path: Path) -> None:
    make_report().to_svg(tmp_path / "report.svg")
    text = (tmp_path / "report.svg").read_text(encoding="utf-8")
    widths = re.findall(r'class="density"[^>]* width="([\d.]+)"', text)
    assert [float(width) for width in widths] == [90.0, 18.0]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1, "1"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1000, "1.00 k"),
        (81234, "81.2 k"),
        (999_999, "1.00 M"),
        (812_000, "812 k"),
        (4.09e9, "4.09 G"),
        (1.5e13, "15.0 T"),
        (0.125, "0.125"),
        (-81234, "-81.2 k"),
    ],
)
def test_human_numbers(number: float, text: str) -> None:
    assert human(number) == text


def test_percent_of_nothing() -> None:
    assert percent(math.nan) == "-"


def test_table_columns_align() -> None:
    table = text_table(("a", "b"), [("x", "1"), ("long", "22")], right=(1,))
    assert table == "a      b\n----  --\nx      1\nlong  22"
