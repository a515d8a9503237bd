"""Saving and resuming: training goes on as if it had never stopped."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW

import sparsefx
from sparsefx.training.packed_tensors import compress, expand, pack, unpack
from tests import models
from tests.made_once import made_once

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
INDEX = torch.arange(12).reshape(3, 4) % 10
TOTAL = 10  # masks freeze after 8


@made_once
def fresh(**options):
    torch.manual_seed(0)
    settings = {"budget": 0.3, "total_steps": TOTAL, **options}
    return sparsefx.transform(models.mlp(), example_inputs=(X,), **settings)


def optimizer_of(sparse):
    return AdamW(sparse.parameters(), lr=0.05)


def train(sparse, optimizer, steps):
    reports = []
    for _ in range(steps):
        sparse(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        reports.append(sparsefx.step(sparse))
    return reports


def state_of(sparse):
    return {k: v for k, v in sparse.state_dict().items() if isinstance(v, torch.Tensor)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value.nan_to_num(), other[key].nan_to_num()), key


RESUME = """
import sys, torch, sparsefx
from tests.training.test_checkpoint import fresh, optimizer_of, train
torch.set_num_threads(1)
folder, steps = sys.argv[1], [int(n) for n in sys.argv[2:]]
for number, count in enumerate(steps):
    sparse = sparsefx.load(fresh(), f"{folder}/{number}.safetensors")
    optimizer = optimizer_of(sparse)
    optimizer.load_state_dict(torch.load(f"{folder}/{number}.pt"))
    reports = train(sparse, optimizer, count)
    torch.save(sparse.state_dict(), f"{folder}/{number}.end")
    with open(f"{folder}/{number}.txt", "w") as file:
        file.write(repr(reports))
"""


def test_resumed_in_a_new_process_is_as_if_never_stopped(tmp_path: Path) -> None:
    """Stopped before, at and after the freeze; weights, masks and reports, bitwise."""
    stops = (3, 8, 9)
    for number, stop in enumerate(stops):
        sparse = fresh()
        optimizer = optimizer_of(sparse)
        train(sparse, optimizer, stop)
        sparsefx.save(sparse, tmp_path / f"{number}.safetensors")
        torch.save(optimizer.state_dict(), tmp_path / f"{number}.pt")
    whole = fresh()
    reports = train(whole, optimizer_of(whole), 2 * TOTAL)
    counts = [str(2 * TOTAL - stop) for stop in stops]
    command = [sys.executable, "-c", RESUME, str(tmp_path), *counts]
    subprocess.run(command, check=True, timeout=120)
    for number, stop in enumerate(stops):
        found = torch.load(tmp_path / f"{number}.end", weights_only=True)
        found = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
        assert_same(found, state_of(whole))
        assert (tmp_path / f"{number}.txt").read_text() == repr(reports[stop:])


def test_state_dict_loads_with_weights_only(tmp_path: Path) -> None:
    sparse = fresh()
    train(sparse, optimizer_of(sparse), 5)
    torch.save(sparse.state_dict(), tmp_path / "state.pt")
    twin = fresh()
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(state_of(twin), state_of(sparse))
    assert torch.equal(twin(X), sparse(X))
    twin.load_state_dict(sparse.state_dict(), assign=True)
    train(twin, optimizer_of(twin), 1)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    sparse = fresh(total_steps=None)
    sparsefx.save(sparse, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["0.weight"], dict(sparse.named_parameters())["0.weight"])
    bits = found["sparsefx.mask/0.weight"]
    assert bits.dtype == torch.uint8
    assert bits.numel() == 16
    assert torch.equal(unpack(bits, (16, 8)), sparsefx.masks(sparse)["0.weight"])


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5), (2, 3, 4)])
def test_packing(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) < 0.5
    assert torch.equal(unpack(pack(mask), shape), mask)


def test_ties_are_stored_once(tmp_path: Path) -> None:
    def shared():
        torch.manual_seed(0)
        return sparsefx.transform(
            models.Shared(), example_inputs=(INDEX,), budget={"params": 0.4}
        )

    sparse, twin = shared(), shared()
    with torch.no_grad():
        sparse.head.bias = None
        for p in sparse.parameters():
            p.add_(torch.randn_like(p))
    sparsefx.step(sparse)
    sparsefx.save(sparse, tmp_path / "a.safetensors")
    keys = load_file(tmp_path / "a.safetensors").keys()
    assert ("head.weight" in keys) != ("embed.weight" in keys)
    assert sparsefx.load(twin, tmp_path / "a.safetensors") is twin
    raw = dict(twin.named_parameters(remove_duplicate=False))
    assert raw["head.weight"] is raw["embed.weight"]
    assert torch.equal(twin(INDEX), sparse(INDEX))


def test_finalized_and_dense_models(tmp_path: Path) -> None:
    sparse = fresh(total_steps=None)
    dense = sparsefx.finalize(sparse)
    sparsefx.save(dense, tmp_path / "dense.safetensors")
    plain = sparsefx.load(models.mlp(), tmp_path / "dense.safetensors")
    assert torch.equal(plain(X), dense(X))
    again = sparsefx.load(fresh(total_steps=None), tmp_path / "dense.safetensors")
    for name, mask in sparsefx.masks(again).items():
        assert not (~mask & (plain.get_parameter(name) != 0)).any()


@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_another_selection_is_refused(tmp_path: Path) -> None:
    sparsefx.save(fresh(), tmp_path / "a.safetensors")
    other = fresh(budget=0.9, exclude=("0",))
    message = r"masks 2 weights, this model 1; they differ in 0\.weight"
    with pytest.raises(sparsefx.MaskError, match=message):
        sparsefx.load(other, tmp_path / "a.safetensors")
    with pytest.raises(sparsefx.MaskError, match=message):
        other.load_state_dict(fresh().state_dict())


def test_what_safetensors_cannot_hold(tmp_path: Path) -> None:
    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(sparsefx.SparsefxError, match=r"'_extra_state' is a dict"):
        sparsefx.save(Extra(2, 2), tmp_path / "a.safetensors")


BIT_PATTERNS = torch.tensor(
    [0.0, -0.0, float("nan"), float("inf"), 1e-45, -1.5, 0.0, 2.0]
)


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_compressed_tensors_come_back_bit_for_bit(
    density: float, dtype: torch.dtype
) -> None:
    value = torch.randn(40, 33).mul_(100) * (torch.rand(40, 33) < density)
    tensors = {
        "matrix": value.to(dtype),
        "kernel": value.to(dtype).reshape(10, 4, 3, 11),
        "vector": BIT_PATTERNS.to(dtype),
        "scalar": torch.tensor(1, dtype=dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "wide": torch.eye(2, 70_000).to(dtype),
    }
    stored, shapes = compress(tensors)
    found = expand(stored, shapes)
    assert found.keys() == tensors.keys()
    for key, wanted in tensors.items():
        assert found[key].dtype == wanted.dtype
        assert found[key].shape == wanted.shape
        if wanted.ndim and wanted.numel():  # bits, for NaN is not equal to itself
            assert torch.equal(found[key].view(torch.uint8), wanted.view(torch.uint8))
    size = sum(part.nbytes for part in stored.values())
    assert size <= sum(tensor.nbytes for tensor in tensors.values())


def test_negative_zeros_take_a_bit() -> None:
    """Multiplying a weight by a mask leaves half of its zeros negative."""
    weight = torch.randn(200, 300)
    masked = weight * (torch.rand(200, 300) < 0.05)
    stored, shapes = compress({"w": masked})
    assert sum(part.nbytes for part in stored.values()) < 0.13 * masked.nbytes
    found = expand(stored, shapes)["w"]
    assert torch.equal(found.view(torch.int32), masked.view(torch.int32))


def sparse_net():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Linear(512, 256))
    sparse = sparsefx.transform(net, budget=0.05, example_inputs=(torch.ones(1, 256),))
    return net, sparsefx.finalize(sparse)


def test_a_compressed_file_is_a_tenth(tmp_path: Path) -> None:
    net, dense = sparse_net()
    whole = sparsefx.save(dense, tmp_path / "dense.safetensors")
    small = sparsefx.save(dense, tmp_path / "small.safetensors", compressed=True)
    assert small.bytes == (tmp_path / "small.safetensors").stat().st_size
    assert small.dense_bytes == sum(p.nbytes for p in net.parameters())
    assert small.bytes <= 0.10 * whole.bytes
    share = 100 * small.bytes / small.dense_bytes
    assert f"{share:.1f} % of 1.05 MB" in str(small)
    assert_same(
        sparsefx.load(net, tmp_path / "small.safetensors").state_dict(),
        dense.state_dict(),
    )


def test_a_compressed_training_state(tmp_path: Path) -> None:
    """Masks, ties and names are stored as in the plain file."""
    sparse, twin = fresh(), fresh()
    train(sparse, optimizer_of(sparse), 3)
    sparsefx.save(sparse, tmp_path / "a.safetensors", compressed=True)
    sparsefx.load(twin, tmp_path / "a.safetensors")
    assert_same(state_of(twin), state_of(sparse))
