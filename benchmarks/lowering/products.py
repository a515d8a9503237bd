"""How much faster a layer is with packed weights than `F.linear` is, dense.

    python benchmarks/lowering/products.py --zeros 0.8 0.9 0.95 --tokens 197
    python benchmarks/lowering/products.py --int8 --columns 4

Whole layers: bias added, activations token by token as models have them. One thread,
all forms in turns, medians of the process's time; results are added to
results/products.jsonl, those in int8 to results/int8_products.jsonl.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from shared.measure import device_name
from shared.result_lines import RESULTS, append

from sparsefx.lowering.dense_layer import Dense
from sparsefx.lowering.layer_forms import FORMS, NoCandidateError
from sparsefx.lowering.packed_layer import PackedLayer
from sparsefx.lowering.reduced_layers import REDUCED, Bf16Layer, Int8Layer

SHAPES = ((3072, 768), (768, 3072), (768, 768), (2048, 512))


def layer_of(shape, zeros, rows, columns):
    """Random weights; ``rows`` outputs by ``columns`` inputs drop together."""
    made = torch.Generator().manual_seed(0)
    blocks = shape[0] // rows, shape[1] // columns
    kept = torch.rand(blocks, generator=made) >= zeros
    kept = kept.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    weight = torch.randn(shape, generator=made) * kept
    return Dense("w", weight, torch.randn(shape[0], generator=made))


def candidates(layer, int8):
    kinds = [FORMS["csr"], FORMS["bsr"]]
    if int8:
        kinds += [*REDUCED["int8"].values(), *REDUCED["bf16"].values()]
    for make in itertools.chain(*kinds):
        try:
            module = make(layer)
        except NoCandidateError:
            continue
        if isinstance(module, PackedLayer):
            form = module.form
            name = f"packed {form.block} {form.vectors} {form.together}"
            yield name + " int8" * form.int8, module
        elif isinstance(module, (Int8Layer, Bf16Layer)):
            yield f"torch {'int8' if isinstance(module, Int8Layer) else 'bf16'}", module
        else:
            yield f"torch {module.kernel}", module


@torch.no_grad()
def measure(shape, zeros, tokens, options):
    layer = layer_of(shape, zeros, options.rows, options.columns)
    x = torch.randn(tokens, shape[1])
    calls = {"dense": lambda: functional.linear(x, layer.weight, layer.bias)}
    wanted = calls["dense"]()
    for name, module in candidates(layer, options.int8):
        gap = (module(x) - wanted).abs().max() / wanted.abs().max()
        assert gap < (0.05 if name.endswith(("int8", "bf16")) else 1e-5), (name, gap)
        calls[name] = lambda module=module: module(x)
    times = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    best = min((n for n in medians if n != "dense"), key=medians.__getitem__)
    return {
        "shape": "x".join(map(str, shape)),
        "zeros": zeros,
        "tokens": tokens,
        "rows": options.rows,
        "columns": options.columns,
        "gain": medians["dense"] / medians[best],
        "best": best,
        "ms": medians,
        "threads": 1,
        "device": device_name(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.8, 0.9, 0.95])
    parser.add_argument("--tokens", nargs="+", type=int, default=[197])
    parser.add_argument("--rows", type=int, default=1, help="that share their zeros")
    parser.add_argument("--columns", type=int, default=1, help="likewise")
    parser.add_argument("--int8", action="store_true", help="also in fewer bits")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for tokens in options.tokens:
        for shape in SHAPES:
            for zeros in options.zeros:
                row = measure(shape, zeros, tokens, options)
                append(RESULTS / f"{'int8_' * options.int8}products.jsonl", row)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
