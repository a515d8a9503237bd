"""What is checked of one model: coverage, equality, keys, and how long it takes."""

from __future__ import annotations

import copy
import time
import traceback
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from zoo.catalogue import build
from zoo.compared import Call, attempt, fresh, resized, same, seed, snapshot, tensors

import sparsefx
from sparsefx.kernels.bits import pack
from sparsefx.masking.masked_module import program_of

Result = dict[str, Any]


def prepared(name: str) -> tuple[nn.Module, Any]:
    """A model whose weights are all random, and its inputs."""
    torch.manual_seed(0)
    model, inputs = build(name)
    with torch.no_grad():  # layers that start at zero must not hide a difference
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model, inputs


def check(name: str) -> Result:
    """All checks of one model; never raises."""
    warnings.simplefilter("ignore")
    try:
        model, inputs = prepared(name)
        original, _ = prepared(name)
        twin, _ = prepared(name)
        call = ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})
        evaluated(prepared(name)[0], call)
    except Exception as error:
        return {"status": "not built", "error": said(error)}
    try:
        return examine(model, original, twin, inputs, call)
    except (sparsefx.CaptureError, sparsefx.MaskError) as error:
        return {"status": "refused", "error": said(error)}
    except Exception as error:
        lines = traceback.format_exc().splitlines()
        return {"status": "failed", "error": said(error), "trace": lines[-12:]}


def examine(
    model: nn.Module, original: nn.Module, twin: nn.Module, inputs: Any, call: Call
) -> Result:
    """Compares the sparse model with ``original``; ``twin`` is one more like it."""
    before = snapshot(model)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as said_by_us:
        warnings.simplefilter("always")
        sparse = transformed(model, inputs)
    seconds = time.process_time() - start
    graphs = sparsefx.graphs(sparse)
    rows = sparsefx.report(sparse).to_dict()["coverage"]
    result: Result = {
        "status": "ok",
        "parameters": sum(p.numel() for p in model.parameters()),
        "captured": kind_of(list(graphs)),
        "graphs": len(graphs),
        "nodes": sum(len(g.graph.nodes) for g in graphs.values()),
        "seconds": round(seconds, 2),
        "masked": sum(row["masked"] is not None for row in rows),
        "graph": sum(row["masked"] == "graph" for row in rows),
        "missed": missed(rows, dict(model.named_parameters())),
        "reason": reason_in([str(w.message) for w in said_by_us]),
        "untouched": same(before, snapshot(model)) == "bit",
    }
    equal: dict[str, str] = {}
    equal["eval"] = same(evaluated(original, call), evaluated(sparse, call))
    other = resized(call)
    if other is not None:
        wanted = attempt(evaluated, original, other)
        if wanted is not None:
            equal["batch"] = same(wanted, evaluated(sparse, other))
    steady = attempt(trained, original, call)
    if steady is not None:
        ours = trained(sparse, call)
        noise = same(steady[0], trained(original, call)[0])
        if noise == "bit":  # else the model draws numbers that no seed repeats
            keys = ("train", "grad", "buffers")
            for key, a, b in zip(keys, steady, ours, strict=True):
                equal[key] = same(a, b)
    if result["captured"] in ("whole", "two"):  # caches are filled by now
        result["ran"] = [ran(sparse, call, mode) for mode in (False, True)]
    equal["half"] = halved(twin, sparse, call)
    dense = sparsefx.finalize(sparse)
    keys = list(original.state_dict()) == list(dense.state_dict())
    result["keys"] = keys and type(dense) is type(model)
    result["equal"] = equal
    return result


def kind_of(paths: list[str]) -> str:
    """One graph, one for each mode, graphs of parts, or none."""
    if "" in paths or ":train" in paths:
        return "whole" if "" in paths else "two"
    return "parts" if paths else "property"


def ran(sparse: nn.Module, call: Call, training: bool) -> bool:
    """Whether the graph, not the Python, answers this call."""
    sparse.train(training)
    buffers = [b.detach().clone() for b in sparse.buffers()]
    with torch.no_grad():  # a switch of mode may have cleared caches the graph reads
        sparse(*fresh(call[0]), **fresh(call[1]))
    program = program_of(sparse)
    done = program.run(sparse, fresh(call[0]), fresh(call[1]))[0]
    with torch.no_grad():
        for buffer, value in zip(sparse.buffers(), buffers, strict=True):
            if not torch.equal(buffer, value):
                buffer.copy_(value)
    return done


def missed(rows: list[Result], parameters: dict[str, Tensor]) -> dict[str, list[Any]]:
    """Reasons why parameters of two or more dimensions stay dense, with names."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        value = parameters[row["parameter"]]
        if row["masked"] is None and value.ndim >= 2 and value.is_floating_point():
            names = found.setdefault(str(row["reason"]).partition(" (")[0], [0, ""])
            names[0] += 1
            names[1] = row["parameter"]
    return found


def reason_in(messages: list[str]) -> str:
    """Why the model is not one graph, as transform said it."""
    start = "the model is not one graph ("
    found = (m.removeprefix(start) for m in messages if m.startswith(start))
    return next(found, "").partition("); graphs cover")[0][:300]


def transformed(model: nn.Module, inputs: Any) -> nn.Module:
    """The sparse model at density 1; budgets without MACs count parameters."""
    try:
        return sparsefx.transform(model, budget=1.0, example_inputs=inputs)
    except sparsefx.BudgetError:
        return sparsefx.transform(model, budget={"params": 1.0}, example_inputs=inputs)


def halved(twin: nn.Module, sparse: nn.Module, call: Call) -> str:
    """Half of every weight masked, against the original with those weights zeroed."""
    state = sparse._sparsefx.weights
    with torch.no_grad():
        for index, weight in enumerate(state.weights()):
            kept = weight.detach().abs() > weight.detach().abs().median()
            state.take({f"bits_{index}": pack(kept)})
    weights = dict(twin.named_parameters())
    with torch.no_grad():
        for name, value in sparse.named_parameters():
            weights[name].copy_(value)  # some models change them when they run
        for name, mask in sparsefx.masks(sparse).items():
            weights[name].mul_(mask)
    parts = [same(evaluated(twin, call), evaluated(sparse, call))]
    wanted = attempt(trained, twin, call)
    if wanted is not None and same(wanted[0], trained(twin, call)[0]) == "bit":
        parts += [
            same(a, b) for a, b in zip(wanted, trained(sparse, call), strict=True)
        ]
    return max(parts, key=("bit", "close", "differs").index)


def evaluated(model: nn.Module, call: Call) -> list[Tensor]:
    model.eval()
    seed()
    with torch.no_grad():
        return tensors(model(*fresh(call[0]), **fresh(call[1])))


def trained(model: nn.Module, call: Call) -> tuple[list[Tensor], ...]:
    """Outputs, gradients and buffers of one training step; the model is put back."""
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    model.train()
    seed()
    outputs = tensors(model(*fresh(call[0]), **fresh(call[1])))
    parts = [o for o in outputs if o.requires_grad and o.is_floating_point()]
    loss = sum(
        (o.float() * torch.linspace(-1, 2, o.numel()).view(o.shape)).sum()
        for o in parts
    )
    weights = list(model.parameters())
    if parts:
        loss.backward()
    grads = [torch.zeros(0) if w.grad is None else w.grad.clone() for w in weights]
    grads = [g.to_dense() if g.is_sparse else g for g in grads]
    model.zero_grad(set_to_none=True)
    moved = [
        b.detach().clone() for n, b in model.named_buffers() if "_sparsefx" not in n
    ]
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers and "_sparsefx" not in name:
                if buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])
    return [o.detach() for o in outputs], grads, moved


def said(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
            :400
        ]
    )


def check_compile(name: str) -> Result:
    """`torch.compile(fullgraph=True)`: of the original, and of the sparse model."""
    warnings.simplefilter("ignore")
    found = {"fullgraph": ""}
    model, inputs = prepared(name)
    call = ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})
    sparse = sparsefx.transform(copy.deepcopy(model), budget=1.0, example_inputs=inputs)
    answers = []
    for part in (model, sparse):
        torch._dynamo.reset()
        compiled = torch.compile(part, backend="aot_eager", fullgraph=True)
        try:
            evaluated(part, call)
            got = evaluated(compiled, call)
            trained(compiled, call)
            answers.append(f"works, {same(evaluated(part, call), got)}")
        except Exception as error:
            answers.append(f"no: {said(error)[:120]}")
    found["fullgraph"] = " | ".join(answers)
    return found | {"compared": Counter(a[:5] for a in answers)["works"]}
