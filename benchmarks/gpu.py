"""What masks cost on a GPU: the projection, its sweeps, and the training step.

    python benchmarks/gpu.py    # everything; adds to results/gpu.jsonl
    python benchmarks/gpu.py --only check    # is it right there? seconds
    python benchmarks/gpu.py --only projection
    python benchmarks/gpu.py --only steps --batch 64

Times are CUDA events, medians. The floor is the bandwidth of a copy in the same run;
the rival is the authors' route (rivals/authors_route.py) on the same GPU. Dense and
masked training steps alternate. Synchronisations raise while masked steps are tried.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median

import gpu_check
import torch
from rivals import authors_route
from shared import measure
from torch import nn
from training import gpu_models

import sparsefx

DENSITY = 0.1


def milliseconds(call: Callable[[], object], count: int, warm: int = 3) -> float:
    """Median time on the GPU of one call, from events around it."""
    for _ in range(warm):
        call()
    spans = []
    for _ in range(count):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        spans.append((first, last))
    torch.cuda.synchronize()
    return median(first.elapsed_time(last) for first, last in spans)


def copy_bandwidth() -> float:
    """Bytes a second of a copy of 1 GiB, read and written."""
    one = torch.empty(2**28, device="cuda")
    two = torch.empty_like(one)
    return 2e3 * one.nbytes / milliseconds(lambda: two.copy_(one), 20)


def projection(shapes: list[tuple[int, ...]], beta: float, copy: float) -> dict:
    """Times of one projection of weights of these shapes, in milliseconds."""
    from sparsefx.kernels import triton_sweeps as sweeps
    from sparsefx.solver.device_solver import DeviceSolver, Seen

    weights = [0.05 * torch.randn(shape, device="cuda") for shape in shapes]
    prices = [float(4 ** (i % 4)) for i in range(len(weights))]
    solver = DeviceSolver(
        weights, prices, [1.0] * len(weights), "layer", [True] * len(weights)
    )
    into = gpu_check.buffers(len(weights))
    pairs = list(zip(prices, weights, strict=True))
    budget = DENSITY * sum(p * w.numel() for p, w in pairs)

    def move() -> None:  # as far as a step of training moves weights
        for weight in weights:
            weight.add_(torch.randn_like(weight), alpha=5e-5)

    solver.solve(weights, budget, beta, into, rounds=24)
    spans, seen = [], []
    for _ in range(30):
        move()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        solver.solve(weights, budget, beta, into)
        last.record()
        spans.append((first, last))
        seen.append(solver.observe(weights, into))
    torch.cuda.synchronize()
    told = [Seen.of(summary) for summary in seen]
    result = {
        "weights": sum(w.numel() for w in weights),
        "beta": beta,
        "warm_ms": median(first.elapsed_time(last) for first, last in spans),
        "rounds": median(one.sweeps for one in told),
        "soft_error": max(
            abs(sum(p * s for p, s in zip(prices, one.soft, strict=True)) / budget - 1)
            for one in told
        ),
        "hard_share": max(
            sum(p * n for p, n in zip(prices, one.counts, strict=True)) / budget
            for one in told
        ),
        "observe_ms": milliseconds(lambda: solver.observe(weights, into), 20),
    }
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        solver.solve(weights, budget, beta, into)
    result["graph_ms"] = milliseconds(graph.replay, 30)
    # one sweep with both searches under way: nothing moves them on
    bytes_read = sum(w.nbytes for w in weights)
    for name, hard in (("search", 1), ("settle", 2)):
        solver.control[0], solver.control[1] = hard, 1

        def sweep() -> None:
            sweeps.sweep[(solver.chunks,)](
                solver.owner, solver.whole, solver.real, solver.control, solver.state,
                solver.partial, solver.ties, solver.tally, solver.sites, solver.chunks,
                **solver.sizes, BINS=sweeps.BINS,
            )  # fmt: skip

        time = milliseconds(sweep, 30)
        result[f"{name}_sweep_ms"] = time
        result[f"{name}_sweep_of_copy"] = 1e3 * bytes_read / time / copy
        solver.tally.zero_()
    worths = solver.worths.tolist()
    time = milliseconds(
        lambda: authors_route.project(weights, prices, worths, budget, beta), 3, 1
    )
    result["authors_ms"] = time
    result["times_faster"] = time / result["warm_ms"]
    return result


def training(name: str, mode: str, batch: int) -> dict:
    """Dense and masked training steps by turns; milliseconds."""
    from sparsefx.training.step_report import LaterReport

    x = torch.randn(batch, 3, 224, 224, device="cuda")
    x = x.to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device="cuda")

    def model() -> nn.Module:
        torch.manual_seed(0)
        net = gpu_models.resnet50() if name == "resnet50" else gpu_models.vit()
        return net.to("cuda", memory_format=torch.channels_last)

    masked = sparsefx.transform(
        model(), example_inputs=(x[:2],), budget=DENSITY, keep_units=False
    )
    nets = {"dense": model(), "masked": masked}
    compiled = {
        kind: torch.compile(net, fullgraph=True, mode=mode)
        for kind, net in nets.items()
    }
    optimizers = {
        kind: torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
        for kind, net in nets.items()
    }
    reports = []

    def step(kind: str) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(compiled[kind](x), y)
        loss.backward()
        optimizers[kind].step()
        optimizers[kind].zero_grad()
        if kind == "masked":
            reports.append(sparsefx.step(masked))

    for kind in nets:
        for _ in range(5):
            step(kind)
    torch.cuda.synchronize()
    before = dict(torch._dynamo.utils.counters["stats"])
    torch.cuda.set_sync_debug_mode("error")
    synced = None
    try:
        for _ in range(3):
            step("masked")
    except RuntimeError as error:
        synced = str(error).splitlines()[0]
    torch.cuda.set_sync_debug_mode("default")
    times: dict[str, list[float]] = {kind: [] for kind in nets}
    del reports[:]
    for _ in range(6):
        for kind in nets:
            times[kind].append(milliseconds(lambda k=kind: step(k), 8, 1))
    found = {kind: median(spans) for kind, spans in times.items()}
    return {
        "model": name,
        "mode": mode,
        "batch": batch,
        **{f"{kind}_ms": time for kind, time in found.items()},
        "ratio": found["masked"] / found["dense"],
        "graph_breaks": 0,  # fullgraph=True raises at the first
        "recompilations": torch._dynamo.utils.counters["stats"]["unique_graphs"]
        - before.get("unique_graphs", 0),
        "synchronised": synced,
        "steps_on_device": sum(isinstance(r, LaterReport) for r in reports)
        / len(reports),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["check", "projection", "steps"])
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu.py needs a CUDA GPU, and torch sees none here. Without "
            "one, tests/solver/test_device_solver.py runs the kernels in Triton's "
            "interpreter, and benchmarks/projection.py measures those of the CPU."
        )
    result: dict[str, object] = {}
    if options.only in (None, "check"):
        result["check"] = {
            **gpu_check.check(),
            "synchronised": gpu_check.synchronised(),
        }
    if options.only in (None, "projection"):
        copy = copy_bandwidth()
        result["copy_bytes_per_second"] = copy
        vit = [
            tuple(p.shape) for p in gpu_models.vit().parameters() if p.dim() in (2, 4)
        ]
        shapes = {"25M": [(1000, 500)] * 50, "86M": vit}
        result["projection"] = [
            {"size": size, **projection(list(dims), beta, copy)}
            for size, dims in shapes.items()
            for beta in (1.0, 5.0, 20.0)
        ]
    if options.only in (None, "steps"):
        result["steps"] = [
            training(model, mode, options.batch)
            for model in ("resnet50", "vit_b_16")
            for mode in ("default", "reduce-overhead")
        ]
    print(json.dumps(measure.save("gpu", result), indent=1))


if __name__ == "__main__":
    main()
