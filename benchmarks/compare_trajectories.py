"""Whether two revisions train alike, bit by bit.

The recorder of the working tree, `tests/trajectories.py`, runs against the package of
either revision; losses, costs, masks and parameters are compared by their exact floats
and hashes. It prints a line a case and fails if one differs:

    python benchmarks/compare_trajectories.py HEAD~1 HEAD
    python benchmarks/compare_trajectories.py main HEAD --only rigl

Both run at once, each on one core, for about a minute.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDER = ("tests/trajectories.py", "tests/trajectory_cases.py")
ABSENT = "absent"


def unpacked(revision: str, folder: Path) -> Path:
    """The revision's files in a new folder, with the recorder of this one."""
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    command = ["git", "archive", "--output", str(archive), revision]
    subprocess.run(command, cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    (folder / "tests").mkdir(exist_ok=True)
    for name in RECORDER:
        shutil.copy(ROOT / name, folder / name)
    return folder


def started(python: str, folder: Path, only: str) -> subprocess.Popen[str]:
    """The recorder, with the package of that folder; it writes `folder`.json."""
    out = folder.with_suffix(".json")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, "PYTHONPATH": str(folder), **dict.fromkeys(names, "1")}
    return subprocess.Popen(
        [python, "-m", "tests.trajectories", str(out), "--only", only],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def recorded(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """What the recorder has written."""
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the recorder failed in {folder.name}: status {process.returncode}")
    if str(folder.resolve()) not in said:
        sys.exit(f"the recorder took another package than {folder.name}'s: {said}")
    return json.loads(folder.with_suffix(".json").read_text("utf-8"))


def leaves(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The numbers and texts of nested dicts and lists, each with the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, *path, key)
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from leaves(inner, *path, str(number))
    else:
        yield path, value


def difference(a: Any, b: Any) -> str | None:
    """Where two recordings of a case part first, and both values there."""
    left, right = dict(leaves(a)), dict(leaves(b))
    for path in {**left, **right}:
        values = left.get(path, ABSENT), right.get(path, ABSENT)
        if repr(values[0]) != repr(values[1]):
            return f"{' '.join(path)}: {values[0]!r} -> {values[1]!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="do two revisions train alike?")
    parser.add_argument("revisions", nargs=2, metavar="REV")
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        folders = [
            unpacked(revision, Path(work) / side)
            for revision, side in zip(options.revisions, "ab", strict=True)
        ]
        runs = [started(options.python, f, options.only) for f in folders]
        a, b = (recorded(r, f) for r, f in zip(runs, folders, strict=True))

    found = {n: difference(a.get(n, {}), b.get(n, {})) for n in {**a, **b}}
    for name, told in found.items():
        print(f"{name:32} {told or 'identical'}")
    different = sum(told is not None for told in found.values())
    print(f"{len(found)} cases, {different} differ")
    if different or not found:
        sys.exit(1)


if __name__ == "__main__":
    main()
