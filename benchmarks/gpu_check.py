"""Whether the Triton kernels are right on the GPU at hand; see benchmarks/gpu.py."""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn

import sparsefx


def buffers(sites: int) -> dict[str, Tensor]:
    """The mask parameters a state would hold."""
    from sparsefx.solver.device_solver import VECTORS

    made = {
        name: torch.zeros(
            sites,
            dtype=torch.int64 if name in ("last", "group") else torch.float64,
            device="cuda",
        )
        for name in VECTORS
    }
    made["dual"] = torch.full((2,), math.nan, dtype=torch.float64, device="cuda")
    return made


def check() -> dict:
    """The kernels against the plain ones on this GPU, and twice against themselves."""
    from sparsefx.kernels import reference, triton_backend
    from sparsefx.kernels.bits import pack
    from sparsefx.kernels.mask_rule import MaskScalars, hard_mask, magnitude
    from sparsefx.solver.device_solver import DeviceSolver, Seen
    from sparsefx.solver.joint_budgets import Limits
    from sparsefx.solver.request import Request
    from sparsefx.solver.solve import solve

    results = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(1)
        shapes = [(300, 200), (64, 32, 3, 3), (1000,), (777, 3)]
        weights = [torch.randn(s, device="cuda").to(dtype) for s in shapes]
        weights[1] = weights[1].to(memory_format=torch.channels_last)
        prices = [1.0, 2.0, 9.0, 0.3]
        budget = 0.2 * sum(p * w.numel() for p, w in zip(prices, weights, strict=True))
        runs = []
        for _ in range(2):
            solver = DeviceSolver(weights, prices, [1.0] * 4, "layer", [True] * 4)
            into = buffers(4)
            solver.solve(weights, budget, 5.0, into)
            runs.append((into, Seen.of(solver.observe(weights, into))))
        (into, seen), (again, _) = runs
        worths = solver.worths.tolist()
        request = Request(
            values=weights,
            limits=Limits((tuple(prices),), (budget,), ("macs",)),
            worths=lambda prices, sums, found=worths: found,
            bounds=[(0, w.numel()) for w in weights],
            beta=5.0,
            names=[str(s) for s in shapes],
        )
        host = solve(request)
        soft = sum(p * s for p, s in zip(prices, seen.soft, strict=True))
        rule = MaskScalars(*(into[n] for n in MaskScalars._fields))
        grad, w = torch.randn_like(weights[1]), weights[1]
        bits = pack(hard_mask(magnitude(w), into["threshold"][1], into["last"][1]))
        pairs = [
            (
                triton_backend.masked(w, bits, rule, 1),
                reference.masked(w, bits, rule, 1),
            ),
            *zip(
                triton_backend.masked_backward(grad, w, rule, 1),
                reference.masked_backward(grad, w, rule, 1),
                strict=True,
            ),
        ]
        gaps = [
            float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs
        ]
        results[str(dtype)] = {
            "same_counts": seen.counts == tuple(host.counts),
            "same_thresholds": into["threshold"].tolist()
            == [s.threshold for s in host.sites],
            "same_ties": into["last"].tolist() == [s.last for s in host.sites],
            "soft_error": abs(soft / budget - 1),
            "bitwise_twice": all(torch.equal(into[n], again[n]) for n in into),
            "forward_gap": gaps[0],
            "gradient_gap": gaps[1],
            "sum_gap": gaps[2],
        }
    return results


def synchronised() -> str | None:
    """What made the host wait in a masked training step; None where nothing did."""
    net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128)).cuda()
    x = torch.randn(64, 256, device="cuda")
    sparse = sparsefx.transform(net, example_inputs=(x,), budget=0.3, keep_units=False)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.01)

    def step() -> None:
        sparse(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(sparse)

    for _ in range(4):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


if __name__ == "__main__":
    print(json.dumps({**check(), "synchronised": synchronised()}, indent=1))
