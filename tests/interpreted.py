"""What tests of Triton kernels in the interpreter share; skips them where it is not."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install '.[triton]'")
if os.environ.get("TRITON_INTERPRET") != "1":  # tests/conftest.py sets it
    pytest.skip("there is a GPU: test_triton_compile.py", allow_module_level=True)

SIZES = {"chunk": 256, "block": 128}
WIDE = torch.channels_last
QUIET = pytest.mark.filterwarnings(
    # the interpreter's NumPy speaks of lanes that are masked out
    "ignore:divide by zero:RuntimeWarning",
    "ignore:overflow:RuntimeWarning",
    "ignore:invalid value:RuntimeWarning",
)
