"""The command line: look at models, policies and reports; lower; run the demo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import sparsefx
from sparsefx.commands import models, presets, reports
from sparsefx.commands.answer import Answer
from sparsefx.commands.given_model import MODEL
from sparsefx.errors import SparsefxError
from sparsefx.lowering.layer_trial import TARGETS
from sparsefx.lowering.precision import PRECISIONS

INPUT = "shape of an input: 1,3,224,224 or 1,128:int64 or name=1,128:int64; repeatable"
KWARGS = "what the model's callable is given, a JSON object: '{\"num_classes\": 10}'"
SIZE = "a size that costs are counted at, such as batch=32; repeatable"
BUDGET = "allowed cost: 0.1, 25%%, or with a cost's name macs=0.1, bytes='5 MB'"
POLICY = "a preset, or a YAML file ending in .yaml"


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
    parser = _parser()
    _completing(parser)
    arguments = parser.parse_args(argv)
    try:
        answer: Answer | None = arguments.run(arguments)
    except (SparsefxError, OSError) as error:  # OSError: a file to write
        print(f"sparsefx: {error}", file=sys.stderr)
        return 2
    if answer is not None:
        print(json.dumps(answer.to_dict(), indent=1) if arguments.json else answer)
    return 0


def _completing(parser: argparse.ArgumentParser) -> None:
    """Completes words in a shell that asks, where argcomplete is installed."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sparsefx", description="Sparse training under a linear cost budget."
    )
    version = f"sparsefx {sparsefx.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], Answer | None], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=run)
        return made

    listed = command("policies", presets.policies, "the presets, or one of them")
    listed.add_argument("name", nargs="?", help=POLICY)
    listed.add_argument("--fields", action="store_true", help="all settings")
    listed.add_argument("--schema", action="store_true", help="a JSON schema of files")

    priced = _on_model(command("costs", models.costs, "what a model costs, by layer"))
    priced.add_argument("--size", action="append", default=[], help=SIZE)

    _on_model(command("capture", models.capture, "the graphs that a model becomes"))

    planned = command("plan", models.plan, "what a policy would keep of a model")
    _with_policy(_on_model(planned))

    lowered = command("lower", models.lower, "what a model with zeros gains here")
    _with_policy(_on_model(lowered))
    lowered.add_argument("--weights", help="a file of sparsefx.save or torch.save")
    lowered.add_argument("--target", default="auto", choices=TARGETS)
    lowered.add_argument("--precision", default="exact", choices=PRECISIONS)
    lowered.add_argument("--tolerance", type=float, help="of the outputs' change")
    lowered.add_argument("--no-compile", action="store_true", help="time eager code")
    lowered.add_argument("--out", help="a package to write, ending in .pt2")

    drawn = command("draw", models.draw, "the graphs of a model as a picture")
    _with_policy(_on_model(drawn))
    drawn.add_argument("--out", default="graph.html", help="an .svg, .html or .dot")

    shown = command("report", reports.report, "a saved report as a table or a page")
    shown.add_argument("path", help="JSON written by Report.to_json")
    shown.add_argument("--html", help="a page to write instead")

    compared = command("diff", reports.diff, "what differs between two saved reports")
    compared.add_argument("first", help="JSON written by Report.to_json")
    compared.add_argument("second", help="another")

    demo = command("demo", _demo, "train two small models to 10 %% of MACs")
    demo.add_argument("--out", default="demo_output", help="folder for the reports")
    demo.add_argument("--seeds", type=int, default=1, help="how often to train each")
    demo.add_argument("--epochs", type=int, default=20, help="passes over the data")
    return parser


def _on_model(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--kwargs", help=KWARGS)
    parser.add_argument("--input", action="append", default=[], help=INPUT)
    return parser


def _with_policy(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--policy", help=POLICY)
    parser.add_argument("--budget", action="append", default=[], help=BUDGET)
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from sparsefx.demo import run  # it needs packages that sparsefx does not

    run(Path(arguments.out), seeds=arguments.seeds, epochs=arguments.epochs)
