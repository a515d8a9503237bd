"""What a device's step tells the host is what the host reads, once."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install '.[triton]'")

from sparsefx.solver.device_solver import Seen
from sparsefx.training.device_step import Numbers


def test_numbers_on_the_host_are_read_as_they_are() -> None:
    summary = torch.tensor([3.0, 0.0, -1.5, *range(8)], dtype=torch.float64)
    numbers = Numbers(summary)
    found = numbers.read()
    assert found == Seen(
        sweeps=3, bad=0, mu=-1.5, soft=(0.0, 1.0), bought=(2.0, 3.0),
        counts=(4, 5), moved=(6, 7),
    )  # fmt: skip
    assert numbers.read() is found
