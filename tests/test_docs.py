"""Every example a reader can copy runs: docstrings, and code blocks of the pages.

In a page, each ```python block follows a comment: `<!-- tested -->`, or
`<!-- tested` and lines of set-up that the reader does not see and `-->`, or
`<!-- untested: the reason -->`. The blocks of one page share their names.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sparsefx

ROOT = Path(__file__).resolve().parents[1]

EXTRAS = {
    "triton": "triton",
    "transformers": "integrations",
    "lightning": "integrations",
}

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

FENCE = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(
    r"^<!-- (?:tested\s(?P<setup>(?:(?!-->).)*)|untested: (?:(?!-->).)+)-->\s*"
    + FENCE.pattern,
    re.MULTILINE | re.DOTALL,
)


def module_names() -> list[str]:
    def fail(name: str) -> None:
        raise  # walk_packages would pass over a package that cannot be imported

    found = pkgutil.walk_packages(sparsefx.__path__, "sparsefx.", onerror=fail)
    # Importing a __main__ runs it.
    return ["sparsefx", *(m.name for m in found if not m.name.endswith(".__main__"))]


def page_names() -> list[str]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    return sorted(page.relative_to(ROOT).as_posix() for page in pages)


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        pytest.skip(f"{error.name} is not installed: pip install '.[{extra}]'")
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module, optionflags=FLAGS)
    assert failed == 0, f"{failed} example lines of {name} fail; see the output"


def test_public_functions_have_examples() -> None:
    public = {
        name: getattr(sparsefx, name) for name in getattr(sparsefx, "__all__", ())
    }
    bare = [
        name
        for name, value in public.items()
        if inspect.isfunction(value) and ">>> " not in (value.__doc__ or "")
    ]
    assert not bare, f"public functions without an example in the docstring: {bare}"


@pytest.mark.parametrize("name", page_names())
def test_page_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    marked = list(MARKED.finditer(text))
    bare = {block.end() for block in FENCE.finditer(text)} - {
        block.end() for block in marked
    }
    lines = sorted(text.count("\n", 0, end) + 1 for end in bare)
    assert not lines, (
        f"{name}: the ```python blocks that end at lines {lines} follow neither "
        "<!-- tested --> nor <!-- untested: the reason -->"
    )

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": name}
    for block in marked:
        for part in ("setup", "code"):
            if block["setup"] is None:
                continue
            # Blank lines in front make a traceback name the page's own line.
            blank = "\n" * text.count("\n", 0, block.start(part))
            exec(compile(blank + block[part], name, "exec"), names)
