"""Which tests run which lines of the package, and how long each takes.

The suite runs once under coverage, a context a test. Runs are forks of one process
that has imported torch, but nothing of sparsefx: a run then costs no start.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest

MEMORY = 16 << 30
SLACK = 20  # the share of a core that a busy machine gives at least is 1 / SLACK
FAILED, TIMED_OUT = 1, -1
OUTPUT = "output.txt"
PYTEST = ("-q", "-x", "--assert=plain", "--no-header", "-p", "no:cacheprovider")


@dataclass(frozen=True, slots=True)
class Covering:
    """Seconds by test; by file and line the tests that run it."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, tuple[str, ...]]]

    def tests(self, file: str, first: int, last: int) -> list[str]:
        """What runs a line between these; for one run at import, all of the file's."""
        found = self.lines.get(file, {})
        hits = {t for n in range(first, last + 1) for t in found.get(n, ())}
        if "" in hits:
            hits = {test for tests in found.values() for test in tests}
        return sorted(hits - {""}, key=lambda test: self.seconds.get(test, 0.0))


class Recorder:
    """A plugin: a context of coverage and a duration a test; which of them fail."""

    def __init__(self, coverage: coverage.Coverage) -> None:
        self.coverage, self.seconds = coverage, dict[str, float]()
        self.failed = set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.coverage.switch_context(item.nodeid)
        begin = time.process_time()
        done = yield
        self.seconds[item.nodeid] = round(time.process_time() - begin, 3)
        self.coverage.switch_context("")
        return done


class Selected:
    """A plugin: nothing but the given tests, in the given order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.order = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(kept, key=lambda item: self.order[item.nodeid])


def forked(tree: Path, run: Callable[[], int], seconds: int) -> int:
    """The status of `run` in a process of its own in that folder.

    It may take so many seconds of CPU time, and `SLACK` times as long.
    """
    child = os.fork()
    if child == 0:
        _child(tree, run, seconds)
    end = time.monotonic() + SLACK * seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return TIMED_OUT if code == -signal.SIGXCPU else code
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT


def _child(tree: Path, run: Callable[[], int], seconds: int) -> NoReturn:
    status = FAILED
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        with (tree / OUTPUT).open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_tests(tests: Sequence[str]) -> int:
    """0 where these tests pass, in this order."""
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    return int(pytest.main([*PYTEST, *files], plugins=[Selected(tests)]))


def record(tree: Path, tests: Sequence[str], out: Path, seconds: int) -> Covering:
    """Run the suite, or the named part of it, and write what covers what.

    Tests that fail without any mutant say nothing about one: they are left out.
    """

    def run() -> int:
        packages = [str(tree / name) for name in ("sparsefx", "passes", "policies")]
        measured = coverage.Coverage(data_file=None, source=packages)
        plugin = Recorder(measured)
        measured.start()
        options = [*PYTEST[2:], "-q", "--continue-on-collection-errors"]
        pytest.main([*options, *tests], plugins=[plugin])
        measured.stop()
        if not plugin.seconds:
            return FAILED
        data = measured.get_data()
        lines = {
            os.path.relpath(file, tree): {
                number: [test for test in found if test not in plugin.failed]
                for number, found in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        out.write_text(json.dumps({
            "seconds": plugin.seconds, "failed": sorted(plugin.failed), "lines": lines
        }))  # fmt: skip
        return 0

    status = forked(tree, run, seconds)
    if status:
        print(*(tree / OUTPUT).read_text("utf-8").splitlines()[-30:], sep="\n")
        sys.exit(f"the tests did not run through: status {status}")
    return read(out)


def read(path: Path) -> Covering:
    """What `record` has written."""
    found = json.loads(path.read_text("utf-8"))
    if found["failed"]:
        print("fail without a mutant, and are left out:", *found["failed"])
    lines = {
        file: {int(n): tuple(tests) for n, tests in by.items()}
        for file, by in found["lines"].items()
    }
    return Covering(found["seconds"], lines)
