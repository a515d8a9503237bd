"""The command line: look at policies, costs, plans and reports; run the demo."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import SparsefxError
from sparsefx.policies.policy import Policy, policy_schema
from sparsefx.policies.presets import preset_names
from sparsefx.reports.report import Report
from sparsefx.reports.text_table import text_table
from sparsefx.settings.fields import plain, settings_of

MODEL = "package.module:name of a callable that returns the model, or of the model"
INPUT = "shape of an input, such as 1,3,224,224 or 1,128:int64; once an input"
SIZE = "a size that costs are counted at, such as batch=32; once a size"
BUDGET = "allowed cost: 0.1, 25%%, or with a cost's name macs=0.1, bytes='5 MB'"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after ``sparsefx``; None takes those of the process.

    Returns:
        The exit code: 0, or 2 where something given was refused.

    Example:
        >>> main(["report", "missing.json"])
        2
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except SparsefxError as error:
        print(f"sparsefx: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sparsefx", description="Sparse training under a linear cost budget."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    policies = commands.add_parser("policies", help="list the presets")
    policies.add_argument("--fields", action="store_true", help="list all settings")
    policies.add_argument(
        "--schema", action="store_true", help="a JSON schema of policy files"
    )
    policies.set_defaults(run=_policies)

    costs = commands.add_parser("costs", help="what a model costs, by layer")
    costs.add_argument("model", help=MODEL)
    costs.add_argument("--input", action="append", default=[], help=INPUT)
    costs.add_argument("--size", action="append", default=[], help=SIZE)
    costs.set_defaults(run=_costs)

    plan = commands.add_parser("transform", help="what a policy would keep")
    plan.add_argument("model", help=MODEL)
    plan.add_argument("--dry-run", action="store_true", help="print the plan only")
    plan.add_argument("--policy", default="cost_budget", help="a preset or YAML file")
    plan.add_argument("--budget", action="append", default=[], help=BUDGET)
    plan.add_argument("--input", action="append", default=[], help=INPUT)
    plan.set_defaults(run=_transform)

    report = commands.add_parser("report", help="print a saved report as a table")
    report.add_argument("path", help="JSON written by Report.to_json")
    report.set_defaults(run=_report)

    demo = commands.add_parser("demo", help="train two small models to 10 %% of MACs")
    demo.add_argument("--out", default="demo_output", help="folder for the reports")
    demo.add_argument("--seeds", type=int, default=1, help="how often to train each")
    demo.add_argument("--epochs", type=int, default=20, help="passes over the data")
    demo.set_defaults(run=_demo)
    return parser


def _policies(arguments: argparse.Namespace) -> None:
    if arguments.schema:
        print(json.dumps(policy_schema(), indent=1))
        return
    if arguments.fields:
        known = settings_of(Policy).values()
        page = [(s.name, plain(s.default), s.meaning) for s in known]
        print(text_table(("field", "default", "meaning"), page))
        return
    header = ("policy", "allocation", "cost", "budget", "ramp until", "beta", "freeze")
    rows = []
    for name in preset_names():
        policy = sparsefx.load_policy(name)
        values = (policy.cost, policy.budget, policy.end_step, policy.beta)
        texts = (str(value) for value in (*values, policy.freeze_step))
        rows.append((name, str(policy.allocation), *texts))
    print(text_table(header, rows))


def _costs(arguments: argparse.Namespace) -> None:
    inputs = example_inputs(arguments.input)
    sizes = dict(map(_size, arguments.size))
    print(sparsefx.costs(load_model(arguments.model), inputs, sizes))


def _size(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdigit() or not int(number):
        raise SparsefxError(f"size {text!r} is not understood; write batch=32")
    return name, int(number)


def _transform(arguments: argparse.Namespace) -> None:
    if not arguments.dry_run:
        raise SparsefxError(
            "the command line only plans: add --dry-run; to train, call "
            "sparsefx.transform in Python"
        )
    overrides: dict[str, Any] = (
        {"budget": budget_of(arguments.budget)} if arguments.budget else {}
    )
    sparse = sparsefx.transform(
        load_model(arguments.model),
        policy=arguments.policy,
        example_inputs=example_inputs(arguments.input),
        **overrides,
    )
    print(sparsefx.report(sparse))


def _report(arguments: argparse.Namespace) -> None:
    try:
        data = json.loads(Path(arguments.path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SparsefxError(f"{arguments.path} cannot be read: {error}") from None
    print(Report.from_dict(data))


def _demo(arguments: argparse.Namespace) -> None:
    from sparsefx.demo import run  # it needs packages that sparsefx does not

    run(Path(arguments.out), seeds=arguments.seeds, epochs=arguments.epochs)


def load_model(name: str) -> nn.Module:
    """The model that ``package.module:callable`` names.

    Raises:
        SparsefxError: it cannot be found, or is no module.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise SparsefxError(
            f"model {name!r} names nothing; write package.module:callable, such as "
            "torchvision.models:resnet18"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m sparsefx` does
    try:
        found: object = importlib.import_module(path)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SparsefxError(f"model {name!r} cannot be loaded: {error}") from None
    if not isinstance(found, nn.Module) and callable(found):
        found = found()
    if not isinstance(found, nn.Module):
        raise SparsefxError(
            f"{name} gives a {type(found).__name__}; name a torch.nn.Module or a "
            "callable without arguments that returns one"
        )
    return found


def example_inputs(shapes: Sequence[str]) -> tuple[Tensor, ...] | None:
    """Inputs of the shapes given; None where there is none.

    Args:
        shapes: sizes with commas between, and ``:dtype`` where it is not float32.

    Raises:
        SparsefxError: a text that is not such a shape.

    Example:
        >>> [(tuple(x.shape), x.dtype) for x in example_inputs(["2,8:int64"])]
        [((2, 8), torch.int64)]
    """
    return tuple(map(_input, shapes)) or None


def _input(text: str) -> Tensor:
    sizes, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or not isinstance(dtype, torch.dtype):
        raise SparsefxError(
            f"input {text!r} is not a shape; write sizes with commas between and, "
            "if it is not float32, the dtype: 1,3,224,224 or 1,128:int64"
        )
    # Zeros are valid as token indices too.
    return (
        torch.randn(shape, dtype=dtype)
        if dtype.is_floating_point
        else torch.zeros(shape, dtype=dtype)
    )


def budget_of(texts: Sequence[str]) -> float | str | dict[str, float | str]:
    """A budget as `transform` takes it, from what the command line was given.

    Raises:
        SparsefxError: several budgets, one of them without its cost's name.

    Example:
        >>> budget_of(["0.1"]), budget_of(["macs=10%", "params=0.2"])
        (0.1, {'macs': '10%', 'params': 0.2})
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return _amount(texts[0])
    budgets: dict[str, float | str] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        if not amount:
            raise SparsefxError(
                f"of several budgets, {text!r} does not say what it limits; write "
                "macs=0.1, params=... or bytes=..."
            )
        budgets[name.strip()] = _amount(amount.strip())
    return budgets


def _amount(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
