"""Runs the tests that speak of what differs from another revision.

    python -m tests.changed [main] [options of pytest]

Those of the folders in which a file differs, the test files that differ themselves,
and what speaks of all: layout and examples. CI runs everything.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("tests/test_layout.py", "tests/test_docs.py")


def differing(base: str) -> list[str]:
    """The files that are not as in that revision, new ones included."""
    names: list[str] = []
    for command in (
        ["git", "diff", "--name-only", f"{base}...HEAD"],
        ["git", "diff", "--name-only", "HEAD"],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ):
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        names += run.stdout.decode().splitlines()
    return names


def tests_of(names: Iterable[str]) -> list[str]:
    """The tests to run for these files: folders of tests, or single files.

    >>> tests_of(["sparsefx/solver/layer.py"])[0]
    'tests/solver'
    """
    found: dict[str, None] = {}
    for name in names:
        path = Path(name.removeprefix("sparsefx/"))
        if name.startswith("tests/"):
            helper = not path.name.startswith("test_")
            found[path.parent.as_posix() if helper else name] = None
        elif path.suffix in (".py", ".yaml", ".cpp", ".h"):
            found[f"tests/{path.parts[0]}"] = None
    kept = [name for name in found if (ROOT / name).exists()]
    folders = tuple(f"{name}/" for name in kept)
    kept = [name for name in kept if not name.startswith(folders)]
    return [*kept, *(name for name in ALWAYS if name not in kept)]


def main() -> None:
    base, *options = sys.argv[1:] or ["main"]
    tests = tests_of(differing(base))
    print(*tests)
    command = [sys.executable, "-m", "pytest", "-q", *options, *tests]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
