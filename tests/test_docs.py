"""Every example a reader can copy runs: docstrings, and code blocks of the pages.

In a page, each ```python block follows a comment: `<!-- tested -->`, or
`<!-- tested` and lines of set-up that the reader does not see and `-->`, or
`<!-- untested: the reason -->`. The blocks of one page share their names. What takes
long has `<!-- quick`, lines that make it short, `-->` behind a block: the slow tests
pass over them.
"""

import contextlib
import doctest
import importlib.util
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import sparsefx

ROOT = Path(__file__).resolve().parents[1]

EXTRAS = {
    "triton": "triton",
    **dict.fromkeys(("transformers", "lightning", "timm", "peft"), "integrations"),
    "torchvision": "zoo",  # timm needs it
}

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

QUICK = re.compile(
    r"^<!-- quick(?P<setup>)\n(?P<code>(?:(?!-->).)*)-->", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#]*)#?(?P<anchor>[^)]*)\)")
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


@contextlib.contextmanager
def skipped_without_extras() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        pytest.skip(f"{error.name} is not installed: pip install '.[{extra}]'")


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with skipped_without_extras():
        module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module, optionflags=FLAGS)
    assert failed == 0, f"{failed} example lines of {name} fail; see the output"


def test_public_names_have_examples() -> None:
    public = {name: getattr(sparsefx, name) for name in sparsefx.__all__}
    passes = {
        name: value
        for name, value in vars(sparsefx.passes).items()
        if getattr(value, "__module__", "").startswith("sparsefx")
    }
    bare = [
        name
        for name, value in {**passes, **public}.items()
        if not inspect.ismodule(value) and ">>> " not in (value.__doc__ or "")
    ]
    assert not bare, f"public names without an example in the docstring: {bare}"


@pytest.mark.parametrize("name", page_names())
def test_page_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    marked = {block.end() for block in MARKED.finditer(text)}
    bare = {block.end() for block in FENCE.finditer(text)} - marked
    lines = sorted(text.count("\n", 0, end) + 1 for end in bare)
    assert not lines, (
        f"{name}: the ```python blocks that end at lines {lines} follow neither "
        "<!-- tested --> nor <!-- untested: the reason -->"
    )
    monkeypatch.chdir(tmp_path)
    run_page(name, text, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in page_names() if QUICK.search((ROOT / n).read_text("utf-8"))]
)
def test_page_examples_at_length(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(name, (ROOT / name).read_text(encoding="utf-8"), quick=False)


def run_page(name: str, text: str, *, quick: bool) -> None:
    """Runs the blocks of a page in their order."""
    found = [*MARKED.finditer(text), *(QUICK.finditer(text) if quick else ())]
    names: dict[str, object] = {"__name__": name}
    for block in sorted(found, key=re.Match.start):
        for part in ("setup", "code"):
            if block["setup"] is None:
                continue
            # Blank lines in front make a traceback name the page's own line.
            blank = "\n" * text.count("\n", 0, block.start(part))
            with skipped_without_extras():
                exec(compile(blank + block[part], name, "exec"), names)


def generated_pages() -> dict[str, str]:
    """The site's pages that a hook of mkdocs makes, by path."""
    path = ROOT / "docs" / "generated_pages.py"
    spec = importlib.util.spec_from_file_location("generated_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def nav_entries(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from nav_entries(entry)


def anchors(text: str) -> set[str]:
    """What links may point to in a page: its headings, as mkdocs names them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"[-\s]+", "-", word) for word in words}


def test_the_site_leads_to_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert sorted(nav_entries(site["nav"])) == sorted(pages | set(generated_pages())), (
        "nav in mkdocs.yml names each page once"
    )


@pytest.mark.parametrize("name", page_names())
def test_links_resolve(name: str) -> None:
    page = ROOT / name
    made = {ROOT / "docs" / path: text for path, text in generated_pages().items()}
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        file = Path(os.path.normpath(page.parent / link["file"]))
        target = file if link["file"] else page
        assert target in made or target.is_file(), f"{name}: {link[0]}"
        inside = target.is_relative_to(ROOT / "docs")
        assert inside or page.parent == ROOT, f"{name}: {link[0]} leaves the site"
        if link["anchor"]:
            text = made.get(target) or target.read_text(encoding="utf-8")
            assert link["anchor"] in anchors(text), f"{name}: {link[0]}"
