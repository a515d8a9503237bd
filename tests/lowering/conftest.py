"""A small transformer's block with zeros, and an input of it."""

import pytest
import torch

from tests.lowering.thin_models import Block, thinned


@pytest.fixture
def block():
    torch.manual_seed(0)
    return thinned(Block()), torch.randn(2, 50, 32)
