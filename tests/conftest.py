"""One thread, fixed seeds, repeatable examples: a failure is the same everywhere."""

import os

# Read when torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import random

import hypothesis
import numpy as np
import pytest
import torch

SEED = 0


class TorchRandom:
    """torch's generator as hypothesis sees one, so that it seeds every example."""

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Read when triton is imported: its kernels then run on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# hypothesis holds it weakly: the name keeps it alive.
TORCH_RANDOM = TorchRandom()
hypothesis.register_random(TORCH_RANDOM)
hypothesis.settings.register_profile(
    "sparsefx",
    deadline=None,
    derandomize=True,
    max_examples=30,
    print_blob=True,
)
hypothesis.settings.load_profile("sparsefx")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - SciPy and scikit-learn draw from it
    torch.manual_seed(SEED)
