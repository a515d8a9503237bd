"""Lowered models on a GPU: 2:4, blocks and units of a ViT-B/16 in bfloat16.

    python benchmarks/lowering/gpu_inference.py

Prints one line of JSON for each case. The decoder at batch 1 is there to be reported:
it waits for memory. Needs a CUDA device.
"""

import json
import sys
from pathlib import Path

import torch

import sparsefx

sys.path.insert(0, str(Path(__file__).parents[1]))
from inference import half_of_the_units, weights
from lowering.models import Decoder, ViT, cached, image

BLOCK = 64


@torch.no_grad()
def thin(model, zeros):
    for path, module in weights(model):
        weight = module.weight
        if weight.ndim > 2 or path == "head":
            continue
        if zeros == "units":
            half_of_the_units(path, module)
        elif zeros == "2:4":
            score = weight.abs().reshape(-1, 4)
            weak = score.argsort(1)[:, :2]
            weight.view(-1, 4).scatter_(1, weak, 0)
        else:
            rows, columns = (size // BLOCK for size in weight.shape)
            score = weight.abs().reshape(rows, BLOCK, columns, BLOCK).sum((1, 3))
            edge = score.flatten().kthvalue(int(0.9 * score.numel())).values
            kept = (score > edge).repeat_interleave(BLOCK, 0)
            weight.masked_fill_(~kept.repeat_interleave(BLOCK, 1), 0)


def timed(call, inputs, rounds=30):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(rounds):
        call(*inputs)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / rounds


def measure(name, model, inputs, zeros):
    torch._dynamo.reset()
    model = model.eval()
    thin(model, zeros)
    model = model.to("cuda", torch.bfloat16)
    inputs = tuple(x.to("cuda", torch.bfloat16) for x in inputs)
    fast = sparsefx.lower(model, inputs)
    dense = torch.compile(model)
    times = {"dense": [], "lowered": []}
    with torch.no_grad():
        for _ in range(7):
            for kind, call in (("dense", dense), ("lowered", fast)):
                times[kind].append(timed(call, inputs))
    medians = {kind: sorted(found)[3] for kind, found in times.items()}
    forms = [row.chosen for row in fast.report.layers]
    row = {
        "model": name,
        "zeros": zeros,
        "batch": len(inputs[0]),
        **medians,
        "gain": medians["dense"] / medians["lowered"],
        "forms": {form: forms.count(form) for form in sorted(set(forms))},
        "verdict": fast.report.verdict,
        "device": torch.cuda.get_device_name(),
    }
    print(json.dumps(row), flush=True)


def main():
    if not torch.cuda.is_available():
        sys.exit("gpu_inference needs a CUDA device; inference.py measures on a CPU")
    for batch in (64, 256):
        for zeros in ("2:4", "blocks", "units"):
            model = ViT(width=768, depth=12, heads=12)
            measure("ViT-B/16", model, image(batch), zeros)
    for zeros in ("2:4", "blocks"):
        measure("decoder", Decoder(), cached(1), zeros)


if __name__ == "__main__":
    main()
