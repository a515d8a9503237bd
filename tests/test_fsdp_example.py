"""The example of FSDP2 runs on two ranks, as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_two_ranks_run_it(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    given = ["--steps", "10", "--width", "16", "--checkpoint", str(tmp_path)]
    done = subprocess.run(
        [*launch, "--nproc-per-node", "2", "examples/fsdp.py", *given],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'met': True" in done.stdout
    assert (tmp_path / ".metadata").exists()
