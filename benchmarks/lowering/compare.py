"""Lowered models beside what other engines make of the same dense model.

    python benchmarks/lowering/compare.py vit resnet50 decoder --zeros 0.9

One thread, all engines in turns in one process, medians of the process's time, after
two calls of each; results are added to results/compare.jsonl. Engines that are not
installed are left out: ``pip install .[peers]`` has them. Weights are random: a lowered
model has zeros at its smallest ones, in int8 at runs of four of a linear layer.
"""

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import sparsefx
from sparsefx.lowering.largest_difference import largest_difference

sys.path.insert(0, str(Path(__file__).parents[1]))
from inference import thin
from lowering.models import MODELS
from shared.measure import device_name, rounds
from shared.result_lines import RESULTS, append


def torch_engines(model, inputs):
    """torch itself: eager, compiled, in bf16, and linear layers in int8."""
    yield "torch eager fp32", model
    yield "torch compiled fp32", torch.compile(model)
    half = torch.compile(copy.deepcopy(model).bfloat16())
    yield "torch compiled bf16", lambda *given: half(*map(as_half, given))
    linear = {torch.nn.Linear}
    quantize = torch.ao.quantization.quantize_dynamic
    yield "torch int8 dynamic", quantize(model, linear, dtype=torch.qint8)


def as_half(x):
    return x.bfloat16() if x.is_floating_point() else x


def onnx_engines(model, inputs):
    """ONNX Runtime: fp32, and int8 with activations rounded at each call."""
    if missing("onnx", "onnxscript", "onnxruntime"):
        return
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        whole, rounded = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        torch.onnx.export(model, inputs, whole, dynamo=True, verbose=False)
        quantize_dynamic(whole, rounded)
        for name, path in (("fp32", whole), ("int8 dynamic", rounded)):
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            yield f"ONNX Runtime {name}", of_session(session)


def of_session(session):
    names = [given.name for given in session.get_inputs()]

    def run(*inputs):
        given = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def openvino_engines(model, inputs):
    """OpenVINO: fp32, and int8 calibrated on the inputs, where nncf is there."""
    if missing("openvino"):
        return
    import openvino

    graph = openvino.convert_model(model, example_input=inputs)
    yield "OpenVINO fp32", of_openvino(openvino, graph)
    if not missing("nncf"):
        import nncf

        data = nncf.Dataset([[x.numpy() for x in inputs]] * 4)
        yield "OpenVINO int8", of_openvino(openvino, nncf.quantize(graph, data))


def of_openvino(openvino, graph):
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda *given: torch.from_numpy(compiled([x.numpy() for x in given])[0])


def missing(*names):
    return not all(importlib.util.find_spec(name) for name in names)


@torch.no_grad()
def in_fours(model, share):
    """Zeros at the runs of four inputs of linear layers whose sums are smallest."""
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        score = module.weight.abs().view(len(module.weight), -1, 4).sum(2)
        edge = score.flatten().kthvalue(max(1, int(share * score.numel()))).values
        kept = (score > edge).repeat_interleave(4, 1)
        module.weight.mul_(kept)


def lowered(model, inputs, zeros, precisions):
    """This package: exact with any zeros, and in int8 with runs of four."""
    kinds = {"exact": (thin, ""), "int8": (in_fours, " in fours")}
    for share in zeros:
        for precision in precisions:
            cut, runs = kinds[precision]
            sparse = copy.deepcopy(model)
            cut(sparse, share)
            fast = sparsefx.lower(sparse, inputs, rounds=3, precision=precision)
            yield f"sparsefx {precision}, {share:.0%} zeros{runs}", fast, sparse


def compare(name, options):
    torch.manual_seed(0)
    torch._dynamo.reset()
    kind, example = MODELS[name]
    model, inputs = kind().eval(), example(1)
    engines = {}
    for make in (torch_engines, onnx_engines, openvino_engines):
        engines |= {label: (run, model) for label, run in make(model, inputs)}
    for label, run, dense in lowered(model, inputs, options.zeros, options.precision):
        engines[label] = run, dense
    with torch.no_grad():
        changes = {
            label: largest_difference(run(*inputs).float(), dense(*inputs))
            for label, (run, dense) in engines.items()
        }
        calls = {
            label: lambda run=run: run(*inputs) for label, (run, _) in engines.items()
        }
        for call in calls.values():
            call()
        times = rounds(calls, options.rounds)
    for label, found in times.items():
        row = {
            "model": name,
            "engine": label,
            "ms": found["cpu_ms"],
            "change": changes[label],
            "gain": times["torch compiled fp32"]["cpu_ms"] / found["cpu_ms"],
            "threads": 1,
            "device": device_name(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
        append(RESULTS / "compare.jsonl", row)
        print(json.dumps(row), flush=True)


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.9])
    kinds = ["exact", "int8"]
    parser.add_argument("--precision", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        compare(name, options)


if __name__ == "__main__":
    main()
