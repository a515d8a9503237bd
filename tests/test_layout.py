"""The repository keeps its shape: packaging, presets, file sizes, import order."""

import ast
import graphlib
import importlib.resources
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("passes", "policies")
TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
PRESETS = {"cost_budget", "erk", "spartan", "uniform"}
MAX_LINES = 300

# A module imports from lower ranks, and from its own rank within its own folder.
# An entry speaks for everything below it: "passes" also ranks "passes.insert_masks".
RANKS = {
    "errors": 0,
    "amount": 0,
    "bits": 0,
    "blame": 0,
    "distributed": 0,
    "merge": 0,
    "packing": 0,
    "page": 0,
    "optimizer_state": 1,
    "private": 0,
    "regions": 0,
    "weight_views": 0,
    "spelling": 0,
    "table": 0,
    "boxes": 1,
    "rewriting": 1,
    "caches": 1,
    "calls": 1,
    "call_signature": 2,
    "interception": 1,
    "observed_uses": 1,
    "opaque": 1,
    "budget": 1,
    "expression": 1,
    "cost": 1,
    "granularity": 1,
    "groups": 1,
    "mask_scalars": 1,
    "n_of_m": 1,
    "layer": 1,
    "projection": 1,
    "schedule": 1,
    "selection": 1,
    "unused_settings": 2,
    "fields": 2,
    "grouping": 2,
    "singular_values": 1,
    "spectral_page": 1,
    "kernels": 2,
    "capture": 2,
    "example_inputs": 2,
    "node_values": 2,
    "guards": 2,
    "module_program": 2,
    "preserve": 2,
    "symbolic_inputs": 2,
    "program": 2,
    "recorder": 2,
    "verify": 2,
    "draw": 2,
    "graph_layout": 2,
    "graph_picture": 2,
    "spectrum": 2,
    "report": 2,
    "units": 2,
    "report_page": 2,
    "site": 3,
    "storage": 4,
    "coupling": 3,
    "curves": 3,
    "dual": 3,
    "greedy": 3,
    "ladder": 3,
    "grouped": 3,
    "joint_hard": 3,
    "joint_soft": 3,
    "kept": 3,
    "limits": 3,
    "masking": 3,
    "misfits": 4,
    "multiples": 4,
    "nested": 3,
    "problem": 3,
    "purchase": 3,
    "ranking": 3,
    "rounding": 3,
    "several": 3,
    "learners": 4,
    "unit_scores": 3,
    "token_selection": 3,
    "passes": 5,
    "policies": 5,
    "policy": 6,
    "policy_source": 7,
    "pricing": 7,
    "masked_module": 6,
    "state": 6,
    "unit_state": 6,
    "hard_masks": 7,
    "policies.allocate": 8,
    "plan": 9,
    "targets": 10,
    "device_step": 10,
    "step_report": 10,
    "rewiring": 10,
    "training": 10,
    "reporting": 11,
    "unit_plan": 9,
    "mixed_units": 10,
    "unit_building": 11,
    "unit_life": 11,
    "restructure": 11,
    "whole_graph": 6,
    "token_options": 3,
    "token_building": 11,
    "token_life": 11,
    "building": 11,
    "api": 12,
    "checkpoint": 13,
    "plasticity": 13,
    "latency": 8,
    "latency_costs": 9,
    "latency_line": 1,
    "measurements": 1,
    "lowering": 7,
    "lowering.layers": 5,
    "lowering.operators": 5,
    "lowering.patterns": 5,
    "lowering.products": 5,
    "lowering.tiles": 5,
    "lowering.timing": 5,
    "spectral": 13,
    "": 14,  # sparsefx/__init__.py: the public names
    "cli": 15,
    "demo": 15,
    "__main__": 16,
}


def source_files() -> Iterator[Path]:
    """The package's files, each once: what lies behind the links, by its real path."""
    for folder in ("sparsefx", *LINKS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.resolve() == path:
                yield path


def dotted(path: Path) -> str:
    """The name under which a file of the package, or a folder, is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "sparsefx":
        parts = ("sparsefx", *parts)
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {dotted(path): path for path in source_files()}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of sparsefx that run-time imports of a file name, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPES_ONLY:
            yield from imported(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        else:
            yield from imported(node)


IMPORTS = {
    name: sorted(set(imported(ast.parse(path.read_text(encoding="utf-8")))))
    for name, path in MODULES.items()
}


def rank(name: str) -> int:
    """The rank of a module: its own entry, else that of the nearest folder above."""
    inner = name.removeprefix("sparsefx").removeprefix(".")
    key = inner
    while key and key not in RANKS:
        key = key.rpartition(".")[0]
    if inner and not key:
        pytest.fail(
            f"{name} has no rank: add {inner!r} to RANKS in tests/test_layout.py, "
            "above every module it imports and below those that import it"
        )
    return RANKS[key]


def folder(name: str) -> str:
    """The folder of the package that a module belongs to, subfolders included."""
    return ".".join(dotted(MODULES[name].parent).split(".")[:2])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    for other in IMPORTS[name]:
        assert rank(other) <= rank(name), (
            f"{name} (rank {rank(name)}) imports {other} (rank {rank(other)}): "
            "imports point down; move what both need to a lower module"
        )
        assert rank(other) < rank(name) or folder(other) == folder(name), (
            f"{name} imports {other}: both have rank {rank(name)}, which only "
            "modules of one folder may do; move what both need below them"
        )


def test_imports_make_no_circle() -> None:
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail("modules import each other: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("link", LINKS)
def test_links_point_home(link: str) -> None:
    path = ROOT / "sparsefx" / link
    assert path.is_symlink(), f"sparsefx/{link} is a link to ../{link} in git"
    assert os.readlink(path) == f"../{link}"


def test_every_package_folder_is_listed_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    folders = {dotted(path.parent) for path in MODULES.values()}
    assert sorted(packages) == sorted(folders), (
        "packages in pyproject.toml names every folder that holds code, no other; "
        f"they differ in {sorted(folders ^ set(packages))}"
    )
    assert folders <= set(MODULES), (
        f"no __init__.py in {sorted(folders - set(MODULES))}"
    )


def test_files_stay_short() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in MODULES.values()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"files above {MAX_LINES} lines, one idea a file: {long}"


def test_presets_ship() -> None:
    folder = importlib.resources.files("sparsefx.policies")
    found = {
        Path(entry.name).stem
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }
    assert found >= PRESETS
    assert found == {path.stem for path in (ROOT / "policies").glob("*.yaml")}


def test_no_second_copy_of_the_linked_folders() -> None:
    strays = [name for name in LINKS if name in sys.modules]
    assert not strays, (
        f"{strays} were imported as top-level modules, so their classes exist twice; "
        "import them from sparsefx, and run no `pytest --doctest-modules`"
    )


def test_linked_folders_are_importable_from_sparsefx_only() -> None:
    code = (
        "from importlib.util import find_spec\n"
        f"print(*(s.origin for n in {LINKS} if (s := find_spec(n))), sep='\\n')"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code],  # -I: neither this folder nor PYTHONPATH
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in run.stdout


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    # A copy, so that no build/ of the checkout can leak into the wheel.
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "demo_output", "__pycache__"
    )
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*build, str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {
        name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name
    }
    expected = {"sparsefx/py.typed"}
    sources = [*(ROOT / "sparsefx/kernels").glob("*.[ch]*")]
    presets = [*(ROOT / "policies").glob("*.yaml")]
    for path in (*MODULES.values(), *sources, *presets):
        inner = path.relative_to(ROOT).as_posix()
        expected.add(inner if inner.startswith("sparsefx/") else f"sparsefx/{inner}")
    assert shipped == expected
