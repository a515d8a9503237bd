"""The private torch names the package relies on still do what it needs."""

import subprocess
import sys

import torch

from sparsefx import torch_internals


def test_fake_tensors_have_symbolic_batches() -> None:
    mode = torch_internals.fake_mode()
    fake = torch_internals.fake_input(mode, torch.ones(4, 3), (True, False))
    assert isinstance(fake, torch_internals.FakeTensor)
    assert isinstance(fake.shape[0], torch.SymInt)
    assert fake.shape[1] == 3
    with torch_internals.python_kernels(), mode:
        assert isinstance((fake @ torch.ones(3, 2)).shape[0], torch.SymInt)
        assert isinstance((fake[:, None] @ fake[:, :, None]).shape[0], torch.SymInt)
        larger = torch.nn.functional.interpolate(fake[:, None], scale_factor=2.0)
        assert isinstance(larger.shape[0], torch.SymInt)
    assert not torch_internals.has_fixed_sizes(mode)


def test_sizes_that_become_numbers_are_noticed() -> None:
    mode = torch_internals.fake_mode()
    fake = torch_internals.fake_input(mode, torch.ones(4, 3), (True, False))
    assert not torch_internals.has_fixed_sizes(mode)
    with mode:
        assert len(fake.split(1)) == 4
    assert torch_internals.has_fixed_sizes(mode)


def test_torch_function_modes_see_calls() -> None:
    seen = []

    class Watch(torch_internals.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.nn.functional.relu(torch.ones(2))
    assert "relu" in seen


def test_trees_flatten_and_come_back() -> None:
    nest = ((torch.ones(1),), {"a": [2, None]})
    leaves, spec = torch_internals.tree_flatten(nest)
    assert len(leaves) == 3
    assert torch_internals.tree_unflatten(leaves, spec) == nest
    assert isinstance(spec, torch_internals.TreeSpec)


def test_callbacks_run_after_all_gradients() -> None:
    weights = [torch.ones(2, requires_grad=True) for _ in range(2)]
    found = []

    def ended():
        found.append([w.grad is not None for w in weights])

    def hook(_):
        assert torch_internals.backward_number() >= 0
        torch_internals.after_backward(ended)

    weights[1].register_post_accumulate_grad_hook(hook)
    (weights[0] * weights[1]).sum().backward()
    assert found == [[True, True]]
    assert torch_internals.backward_number() == -1


def test_compilers_are_noticed() -> None:
    def f(x):
        return x + 1 if torch_internals.is_compiling() else x

    assert not torch_internals.is_compiling()
    compiled = torch.compile(f, backend="eager", fullgraph=True)
    assert compiled(torch.ones(1)).item() == 2


def test_exports_are_told_from_compiled_code() -> None:
    class Told(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if torch_internals.is_exporting() else x

    x = torch.ones(1)
    assert torch.compile(Told(), backend="eager", fullgraph=True)(x).item() == 1
    for strict in (False, True):
        program = torch.export.export(Told(), (x,), strict=strict)
        assert program.module()(x).item() == 2


def test_sparse_tensors_warn_nobody() -> None:
    code = """
import torch
from sparsefx.torch_internals import silence_sparse
silence_sparse()
one = torch.eye(2).to_sparse_csr()
parts = one.crow_indices(), one.col_indices(), one.values()
torch.sparse_csr_tensor(*parts, check_invariants=False)
torch.eye(2).to_sparse_bsr((1, 1))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_function_transforms_are_noticed() -> None:
    assert not torch_internals.transforming()
    assert (
        torch.vmap(lambda x: x + torch_internals.transforming())(torch.zeros(2)).sum()
        == 2
    )


def test_containers_of_our_own_are_flattened() -> None:
    from sparsefx.tracing.object_trees import Box

    leaves, spec = torch_internals.tree_flatten([Box(dict, ("a", "b"), [1, 2])])
    assert leaves == [1, 2]
    assert torch_internals.tree_unflatten(leaves, spec)[0].values == [1, 2]


def test_linear_layers_in_int8() -> None:
    weight = torch.tensor([[100, -50, 3], [-127, 0, 127]], dtype=torch.int8)
    scale, bias = torch.tensor([0.01, 0.1]), torch.tensor([1.0, -1.0])
    x = torch.tensor([[0.0, 1.0, 2.0], [-3.0, 0.5, 4.0]])
    packed = torch_internals.int8_packed(weight, scale, bias)
    found = torch_internals.int8_linear(x, packed)
    wanted = x @ (weight * scale[:, None]).T + bias
    torch.testing.assert_close(found, wanted, atol=0.8, rtol=0)
    assert not torch.equal(found, wanted)
