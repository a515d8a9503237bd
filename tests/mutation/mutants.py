"""Would the tests notice? Seeded faults in the package, each tried against them.

    python -m tests.mutation.mutants                      # 200 of all rooms
    python -m tests.mutation.mutants --number 40 --rooms learners policies

A copy of the tree is changed, never the tree. A mutant is tried with the tests that
run its line, those of its own folder first, then the fastest, until one fails. What is
known to change no behaviour stands in `equivalent.txt` with the reason. Results are
lines of JSON in the folder `.mutants`; a mutant that stands there is not tried again.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis  # noqa: F401 - imported once, before the forks
import scipy.optimize  # noqa: F401
import sympy  # noqa: F401
import torch._dynamo
import torch.utils.flop_counter  # noqa: F401

from tests.mutation.covering import TIMED_OUT, Covering, forked, read, record, run_tests
from tests.mutation.mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
# A policy's or a learner's own folder lies beside the package, linked.
ROOMS = {
    "solver": "sparsefx/solver",
    "learners": "sparsefx/learners",
    "masking": "sparsefx/masking",
    "settings": "sparsefx/settings",
    "training": "sparsefx/training",
    "policies": "policies",
    "units": "passes/units",
}
RANKS = "tests.many_ranks"  # what tests of several processes import
AT_MOST = 60.0  # seconds of tests a mutant, CPU time without it


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant and what became of it."""

    mutant: Mutant
    outcome: str  # killed, timed out, survived, no test, equivalent
    seconds: float
    tests: int
    left_out: int


def copied(folder: Path) -> Path:
    """The files of the working tree that git knows, links kept."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    tree = folder / "tree"
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    # Compiled once, valid as long as a file's text is: forks write nothing.
    checked = ("--invalidation-mode", "checked-hash")
    compiled = [sys.executable, "-m", "compileall", "-q", *checked, "."]
    subprocess.run(compiled, cwd=tree, check=True)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    return tree


def drawn(rooms: Sequence[str], only: str, number: int, seed: int) -> list[Mutant]:
    """That many nodes of these rooms, a mutant each."""
    every = (
        node
        for room in rooms
        for path in sorted((ROOT / ROOMS[room]).rglob("*.py"))
        for node in mutants(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    )
    fitting = ([mutant for mutant in node if only in mutant.key] for node in every)
    nodes = [node for node in fitting if node]
    order = random.Random(seed)
    return [order.choice(node) for node in order.sample(nodes, min(number, len(nodes)))]


def nearest_first(mutant: Mutant, tests: list[str], seconds: dict[str, float]) -> list:
    """Those of the file of the same name, of the same folder, then the fastest."""
    path = Path(mutant.file)
    folder = f"tests/{'/'.join(path.parts[:-1]).removeprefix('sparsefx/')}"

    def far(test: str) -> tuple[int, float]:
        file = test.partition("::")[0]
        if file == f"{folder}/test_{path.name}":
            return 0, seconds[test]
        return 1 + (not file.startswith(folder)), seconds[test]

    return sorted(tests, key=far)


def apart(tree: Path, covering: Covering) -> list[str]:
    """Tests of several processes: what runs there alone, nobody has seen."""
    used = {f for f in (tree / "tests").rglob("test_*.py") if RANKS in f.read_text()}
    names = {file.relative_to(tree).as_posix() for file in used}
    return [test for test in covering.seconds if test.partition("::")[0] in names]


def tried(tree: Path, mutant: Mutant, covering: Covering, at_most: float) -> Trial:
    """The tests of that line, with the mutant in the copy of the tree."""
    tests = covering.tests(mutant.file, mutant.line, mutant.last)
    tests = tests or apart(tree, covering)
    if not tests:
        return Trial(mutant, "no test", 0.0, 0, 0)
    chosen, total = [], 0.0
    for test in nearest_first(mutant, tests, covering.seconds):
        if chosen and total + covering.seconds[test] > at_most:
            break
        total += covering.seconds[test]
        chosen.append(test)
    file = tree / mutant.file
    source = file.read_text("utf-8")
    begin = time.monotonic()
    try:
        file.write_text(mutant.of(source), "utf-8")
        status = forked(tree, lambda: run_tests(chosen), round(30 + 4 * total))
    finally:
        file.write_text(source, "utf-8")
    outcome = {0: "survived", TIMED_OUT: "timed out"}.get(status, "killed")
    took = round(time.monotonic() - begin, 2)
    return Trial(mutant, outcome, took, len(chosen), len(tests) - len(chosen))


def equivalents() -> set[str]:
    """The keys of mutants that change no behaviour; lines below say why."""
    lines = EQUIVALENT.read_text("utf-8").splitlines()
    return {line for line in lines if line and not line.startswith((" ", "#"))}


def table(outcomes: dict[str, Counter[str]]) -> str:
    """One row a room: how many mutants of each outcome, the share that was noticed."""
    names = ("killed", "timed out", "survived", "no test", "equivalent")
    rows = [f"{'room':10}" + "".join(f"{name:>12}" for name in names) + "     noticed"]
    total: Counter[str] = sum(outcomes.values(), Counter())
    for room, found in (*outcomes.items(), ("all", total)):
        noticed = found["killed"] + found["timed out"]
        acting = found.total() - found["equivalent"]
        share = f"{noticed / acting:12.1%}" if acting else f"{'-':>12}"
        rows.append(f"{room:10}" + "".join(f"{found[n]:12}" for n in names) + share)
    return "\n".join(rows)


def stamp(tree: Path, tests: Sequence[str]) -> str:
    """A hash of which tests are asked for, and of package and tests."""
    found = hashlib.sha256(" ".join(tests).encode())
    folders = ("sparsefx", "passes", "policies", "tests")
    for path in sorted(p for name in folders for p in (tree / name).rglob("*.py")):
        if path.parent.name != "mutation":
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def trials(tree: Path, options: argparse.Namespace) -> Iterator[Trial]:
    """All that is asked for, those of an earlier run first looked up."""
    code = stamp(tree, options.tests)
    cover = options.map or WORK / f"covering-{code}.json"
    results = WORK / f"results-{code}.jsonl"
    if cover.exists():
        covering = read(cover)
    else:
        print("one run of the tests, to see which lines each of them runs", flush=True)
        covering = record(tree, options.tests, cover, options.limit)
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    same = equivalents()
    for mutant in drawn(options.rooms, options.only, options.number, options.seed):
        if mutant.key in same:
            yield Trial(mutant, "equivalent", 0.0, 0, 0)
        elif row := known.get(mutant.key):
            yield Trial(mutant, row["outcome"], 0.0, row["tests"], row["left_out"])
        else:
            trial = tried(tree, mutant, covering, options.at_most)
            row = {
                "key": mutant.key,
                "line": mutant.line,
                "kind": mutant.kind,
                "outcome": trial.outcome,
                "seconds": trial.seconds,
                "tests": trial.tests,
                "left_out": trial.left_out,
            }
            with results.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            yield trial


def main() -> None:
    parser = argparse.ArgumentParser(description="would the tests notice?")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--tests", nargs="+", default=["tests"])
    parser.add_argument("--only", default="", help="a piece of the mutants' keys")
    parser.add_argument("--map", type=Path, help="a map of an earlier run")
    parser.add_argument("--limit", type=int, default=7200, help="of the map's run")
    parser.add_argument("--at-most", type=float, default=AT_MOST)
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    outcomes = {room: Counter[str]() for room in options.rooms}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for trial in trials(copied(Path(folder)), options):
            mutant = trial.mutant
            room = next(r for r in ROOMS if mutant.file.startswith(ROOMS[r]))
            outcomes[room][trial.outcome] += 1
            print(
                f"{trial.outcome:10} {trial.seconds:6.1f} s  {mutant.key}", flush=True
            )
    print(table(outcomes))


if __name__ == "__main__":
    main()
