"""How much faster lowered models run, and how small their files are.

    python benchmarks/inference.py run vit --zeros 0.95 0.9 blocks units --batch 1
    python benchmarks/inference.py page

``run`` compares a model under torch.compile with what ``sparsefx.lower`` returns, in
turns, by medians of the ratio; on one thread it is the time of the process. Results are
added to results/inference.jsonl. ``page`` writes docs/speed.md and docs/speed.svg.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import sparsefx

sys.path.insert(0, str(Path(__file__).parent))
from lowering.models import MODELS
from shared.result_lines import RESULTS, append, read

ROOT = Path(__file__).resolve().parents[1]
FILE = RESULTS / "inference.jsonl"
KEYS = ("model", "zeros", "batch", "threads")
BLOCK = 32


def device():
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((x for x in lines if x.startswith("model name")), name)
        name = name.partition(":")[2].strip() or name
    return f"{name}, torch {torch.__version__}"


def weights(model):
    for path, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            yield path, module


@torch.no_grad()
def thin(model, zeros):
    """Zeros by magnitude in each layer: a share, in blocks, or half of the units."""
    for path, module in weights(model):
        weight = module.weight
        if zeros == "units":
            half_of_the_units(path, module)
            continue
        share = 0.9 if zeros == "blocks" else float(zeros)
        score = weight.abs()
        if zeros == "blocks":
            rows, columns = weight.shape[0] // BLOCK, weight.shape[1] // BLOCK
            if weight.ndim > 2 or rows * BLOCK != len(weight):
                continue
            parts = score.reshape(rows, BLOCK, columns, BLOCK).sum((1, 3))
            score = parts.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        edge = score.flatten().kthvalue(max(1, int(share * score.numel()))).values
        weight.masked_fill_(score <= edge, 0)


def half_of_the_units(path, module):
    """Half of the heads and neurons; half of the channels inside of bottlenecks."""
    weight = module.weight
    last = path.rpartition(".")[2]
    if last == "qkv":
        width = len(weight) // 3
        for part in range(3):
            weight[part * width : part * width + width // 2] = 0
    elif last in ("fc1", "conv1", "conv2"):
        weight[: len(weight) // 2] = 0
    if last in ("proj", "fc2", "conv2", "conv3"):
        weight[:, : weight.shape[1] // 2] = 0


def ratios(dense, fast, inputs, rounds):
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found, times = [], {"dense": [], "lowered": []}
    with torch.no_grad():
        for _ in range(rounds + 2):
            pair = []
            for name, call in (("dense", dense), ("lowered", fast)):
                start = clock()
                call(*inputs)
                pair.append(clock() - start)
                times[name].append(1e3 * pair[-1])
            found.append(pair[0] / pair[1])
    medians = {name: statistics.median(some[2:]) for name, some in times.items()}
    return statistics.median(found[2:]), medians


def sizes(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        whole = sparsefx.save(model, path).bytes
        return sparsefx.save(model, path, compressed=True).bytes / whole


def measure(name, zeros, batch, threads, rounds):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    kind, inputs = MODELS[name]
    model = kind().eval()
    thin(model, zeros)
    x = inputs(batch)
    fast = sparsefx.lower(model, x)
    dense = torch.compile(model)
    with torch.no_grad():
        wanted, found = model(*x), fast(*x)
    gap = ((found - wanted).abs().max() / wanted.abs().max()).item()
    gain, times = ratios(dense, fast, x, rounds)
    held = sum(t.nbytes for t in fast.state_dict().values())
    row = {
        "model": name,
        "zeros": str(zeros),
        "batch": batch,
        "threads": threads,
        "gain": gain,
        "dense_ms": times["dense"],
        "lowered_ms": times["lowered"],
        "forms": forms(fast),
        "verdict": fast.report.verdict,
        "gap": gap,
        "file": sizes(model),
        "memory": held / sum(t.nbytes for t in model.state_dict().values()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device": device(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(row), flush=True)
    return row


def forms(fast):
    names = [row.chosen for row in fast.report.layers]
    return {name: names.count(name) for name in sorted(set(names))}


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("models", nargs="*", choices=[*MODELS, []])
    parser.add_argument("--zeros", nargs="+", default=["0.5", "0.8", "0.9", "0.95"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.what == "page":
        from lowering.speed_page import write

        size = "tokens", "zeros", "shape"
        write(
            read(FILE, *KEYS).values(),
            read(RESULTS / "products.jsonl", "rows", *size).values(),
            read(RESULTS / "int8_products.jsonl", "columns", *size).values(),
            read(RESULTS / "compare.jsonl", "model", "engine").values(),
            ROOT / "docs",
        )
        return
    for name in options.models:
        for threads in options.threads:
            for batch in options.batch:
                for zeros in options.zeros:
                    row = measure(name, zeros, batch, threads, options.rounds)
                    append(FILE, row)


if __name__ == "__main__":
    main()
