"""`import sparsefx` brings torch and what sparsefx itself needs, nothing optional."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OPTIONAL = {
    "lightning",
    "matplotlib",
    "numpy",  # unless torch brings it
    "safetensors",
    "scipy",
    "sklearn",
    "sympy",  # a fifth of the time torch takes: when first used
    "timm",
    "torchvision",
    "tqdm",
    "transformers",
}

ADDED_TO_TORCH = """
import sys
import torch
before = set(sys.modules)
import sparsefx
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_import_brings_no_optional_package() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error::::sparsefx", "-c", ADDED_TO_TORCH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    added = set(run.stdout.split())
    assert "sparsefx" in added
    assert not added & OPTIONAL, (
        f"`import sparsefx` imports {sorted(added & OPTIONAL)}; import them where "
        "they are used"
    )
