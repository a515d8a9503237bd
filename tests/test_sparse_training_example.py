"""The example of training on kept weights alone runs in its quick mode."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_it_prints_a_row_for_each_training() -> None:
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, "examples/sparse_training.py", "--quick"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines()]
    assert rows == ["training", "dense", "masked", "sparse"]
