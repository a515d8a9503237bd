"""The site: generated pages say what the code says, mkdocs builds without a warning."""

import importlib.util
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import sparsefx
from tests.test_docs import ROOT, generated_pages


def test_every_field_and_preset_is_on_the_page_of_policies() -> None:
    page = generated_pages()["policies.md"]
    for field in fields(sparsefx.Policy):
        assert f"\n### {field.name}\n" in page
    for name in sparsefx.policies():
        assert f"\n### {name}\n" in page
    assert "Default: `10`. Give a number above 0." in page
    assert "It has no effect with `beta_ramp: constant`." in page


def test_every_public_name_is_in_the_reference() -> None:
    page = generated_pages()["reference.md"]
    modules = {"integrations", "passes", "policies"}
    missing = [
        name
        for name in sparsefx.__all__
        if name not in modules and f"::: sparsefx.{name}\n" not in page
    ]
    assert not missing
    assert "::: sparsefx.passes.InsertMasks\n" in page


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None
    or importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs is not installed: pip install '.[docs]'",
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    run = subprocess.run(
        [*build, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "sparsefx.transform" in (tmp_path / "reference.html").read_text()
    concepts = (tmp_path / "concepts.html").read_text()
    assert "<mfrac>" in concepts
    assert "arithmatex" not in concepts


def test_forms_and_citation_are_yaml_of_their_kinds() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["license"] == "Apache-2.0"
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert forms
    for form in forms:
        read = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(read)
        assert {part["type"] for part in read["body"]} <= {"textarea", "input"}
