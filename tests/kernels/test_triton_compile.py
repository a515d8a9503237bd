"""The Triton kernels pass Triton's compiler and NVIDIA's assembler, without a GPU.

Where there is a GPU, they also run on it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install '.[triton]'")

# In a process of its own: here Triton interprets. Every kernel as it is launched, with
# the numbers that a launch of one tensor turns into constants, and for bfloat16 too.
SCRIPT = """
import re, triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsefx.kernels import triton_masked, triton_rules, triton_solver, triton_sweeps

WHOLE = "whole control last group table".split()
SHORT = "owner ties tally words".split()
COUNTS = "sites chunks classes leader size inner outer count".split()
WEIGHTS = "weight out grad".split()

def build(kernel, weight="*fp32", **constants):
    signature = {}
    for name in kernel.arg_names:
        kind = "*fp64"
        kind = "*i64" if name in WHOLE else "*i32" if name in SHORT else kind
        kind = "i32" if name in COUNTS else weight if name in WEIGHTS else kind
        signature[name] = "constexpr" if name in constants else kind
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

spans = dict(WIDTH=64, SPAN=256)
sizes = dict(CHUNK=triton_sweeps.CHUNK, BLOCK=triton_sweeps.BLOCK)
for element, one in ((tl.float32, {}), (tl.bfloat16, {"sites": 1, "chunks": 1})):
    typed = dict(sizes, ELEMENT=element, **one)
    for kernel, more in (
        (triton_sweeps.survey, {}),
        (triton_sweeps.sweep, {"BINS": triton_sweeps.BINS}),
        (triton_rules.mark, {"COUNTS": True}),
    ):
        # weights are read 16 bytes at a time
        text = build(kernel, **typed, **more)
        assert re.search(r"ld\\.global\\S*\\.v4", text), kernel
    build(triton_rules.settle, KEEP=False, **typed, **spans)
    constants = {k: v for k, v in typed.items() if k != "chunks"}
    assert re.search(r"st\\.global\\S*\\.v4", build(triton_masked.correct, **constants))
build(triton_sweeps.gather, CHUNK=sizes["CHUNK"], WIDTH=256)
numbers = dict(PAD=1e-3, BINS=triton_sweeps.BINS)
for normalize in (0, 1, 2):
    build(triton_solver.begin, NORMALIZE=normalize, **numbers, WIDTH=64)
for close in (False, True):
    build(triton_solver.update, rtol=1e-6, CLOSE=close, **numbers, **spans)
build(triton_solver.update, rtol=1e-6, CLOSE=False, classes=1, **numbers, **spans)
build(triton_rules.summarise, CHUNK=sizes["CHUNK"], SPAN=256)
for layout in ({}, {"inner": 1, "outer": 1}):
    for weight in ("*fp32", "*bf16"):
        build(triton_masked.forward, weight, BLOCK=2048, **layout)
        build(triton_masked.backward, weight, BLOCK=2048, **layout)
build(triton_masked.add_up, SPAN=256)
"""


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: Path, **more: str) -> str:
    environment = {**os.environ, **more}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    script = tmp_path / "compile_kernels.py"
    script.write_text(SCRIPT)
    run(script, TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_kernels_on_a_gpu() -> None:
    found = json.loads(run(BENCHMARKS / "gpu_check.py"))
    assert found.pop("synchronised") is None
    for dtype, seen in found.items():
        for name in ("same_counts", "same_thresholds", "same_ties", "bitwise_twice"):
            assert seen[name], f"{name} is false for {dtype}"
        assert seen["soft_error"] < 1e-6
        limit = 1e-5 if dtype == "torch.float32" else 2e-2
        assert seen["forward_gap"] < limit
        assert seen["gradient_gap"] < limit
        assert seen["sum_gap"] < 1e-4


def test_without_a_gpu_the_benchmark_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "needs a CUDA GPU" in done.stderr
