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

import sparsefx

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("passes", "policies")
TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
PRESETS = {"cost_budget", "erk", "spartan", "uniform"}
MAX_LINES = 300
MAX_PARAMETERS = 8

# A folder (or a module beside the folders) imports from lower ranks only; within a
# folder imports make no circle. The architecture, one line a room.
RANKS = {
    "errors": 0,
    "torch_internals": 0,
    "files": 1,
    "settings": 1,
    "reports": 1,
    "tracing": 1,
    "kernels": 2,
    "solver": 3,
    "learners": 4,
    "masking": 5,
    "policies": 6,
    "passes": 6,
    "lowering": 7,
    "training": 8,
    "pruning": 9,
    "api": 10,
    "integrations": 10,
    "": 11,  # sparsefx/__init__.py: the public names
    "demo": 12,
    "commands": 12,
    "cli": 13,
    "__main__": 14,
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


def room(name: str) -> str:
    """The folder of the package that a module belongs to, or its own name."""
    return name.removeprefix("sparsefx").removeprefix(".").partition(".")[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    own = room(name)
    assert own in RANKS, (
        f"{name} has no rank: add {own!r} to RANKS, above every folder it imports and "
        "below those that import it"
    )
    for other in IMPORTS[name]:
        theirs = room(other)
        assert theirs == own or RANKS[theirs] < RANKS[own], (
            f"{name} (rank {RANKS[own]}) imports {other} (rank {RANKS[theirs]}): "
            "imports point down; move what both need to a lower folder"
        )


def test_the_top_of_the_package_stays_small() -> None:
    names = {path.name for path in (ROOT / "sparsefx").iterdir() if path.is_file()}
    modules = {
        "__init__",
        "__main__",
        "api",
        "cli",
        "demo",
        "errors",
        "torch_internals",
    }
    assert names == {f"{name}.py" for name in modules} | {"py.typed"}


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
    beside = (ROOT / name for name in ("tests", "benchmarks", "examples"))
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in (*MODULES.values(), *(p for d in beside for p in d.rglob("*.py")))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"files above {MAX_LINES} lines, one idea a file: {long}"


def test_parameters_stay_few() -> None:
    public = set(sparsefx.__all__)
    long = {}
    for name, path in MODULES.items():
        if room(name) == "kernels" or path.name == "shape_rules.py":
            continue  # signatures of kernels, and of torch's own operators
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = [a.arg for a in node.args.posonlyargs + node.args.args]
                given += [] if node.name in public else node.args.kwonlyargs
                if len(set(given) - {"self", "cls"}) > MAX_PARAMETERS:
                    long[f"{name}.{node.name}"] = len(given)
    assert not long, (
        f"more than {MAX_PARAMETERS} parameters; what belongs together? {long}"
    )


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
