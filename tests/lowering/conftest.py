"""A small transformer's block with zeros, and an input of it; a cache of one's own."""

from pathlib import Path

import pytest
import torch

from tests.lowering.thin_models import Block, thinned


@pytest.fixture
def block():
    torch.manual_seed(0)
    return thinned(Block()), torch.randn(2, 50, 32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where measurements are remembered in this test."""
    monkeypatch.setenv("SPARSEFX_CACHE", str(tmp_path))
    return tmp_path / "latency.json"
