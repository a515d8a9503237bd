"""The table of a run of the zoo, as docs/coverage.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

Row = dict[str, Any]
_HEAD = "| model | captured | nodes | masked | equal | fullgraph | seconds |"


def render(rows: list[Row]) -> str:
    """A page: totals, what is not whole and why, one row a model."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(str(row["name"]).partition("/")[0], []).append(row)
    lines = [
        "# Coverage",
        "",
        "Made by `python benchmarks/zoo.py --report docs/coverage.md`; do not edit.",
        "",
        "Each model is transformed at density 1 and compared with itself as it was:",
        "outputs in eval, at another batch size, of a training step, its gradients and",
        "buffers; then half of every weight is masked, against the model with those",
        "weights zeroed. *one* graph serves both modes, *two* one for each, *parts*",
        "graphs of submodules with Python around them. *bit* is bitwise equal, *close*",
        "within 1e-5. *masked* counts parameters: behind a mask, of those in a graph.",
        "*fullgraph* is `torch.compile(fullgraph=True)` of the original | of ours.",
        "",
        "| family | models | masked without error | one graph | two | parts | property "
        "| all bitwise | all close | a difference | untouched, keys kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_total(name, found) for name, found in families.items()]
    lines += ["", "## Not one graph, and why", "", "| model | reason |", "|---|---|"]
    lines += [
        f"| {row['name']} | {_cell(row.get('error') or row.get('reason'))} |"
        for row in rows
        if row.get("captured") not in ("whole", "two")
    ]
    lines += ["", "## Parameters of two or more dimensions that stay dense", ""]
    lines += ["| reason | parameters | for example |", "|---|---|---|"]
    lines += _dense(rows)
    for name, found in families.items():
        lines += ["", f"## {name}", "", _HEAD, "|---|---|---|---|---|---|---|"]
        lines += [_model(row) for row in found]
    return "\n".join(lines) + "\n"


def worst(row: Row) -> str:
    """The least equal of a model's comparisons."""
    found = list(row.get("equal", {}).values()) or ["differs"]
    return str(max(found, key=("bit", "close", "differs").index))


def _total(name: str, rows: list[Row]) -> str:
    good = [row for row in rows if row["status"] == "ok"]
    kinds = Counter(row["captured"] for row in good)
    equal = Counter(worst(row) for row in good)
    kept = sum(bool(row["untouched"] and row["keys"]) for row in good)
    counts = [len(rows), len(good), *(kinds[k] for k in _KINDS)]
    counts += [equal[k] for k in ("bit", "close", "differs")]
    return f"| {name} | " + " | ".join(map(str, (*counts, kept))) + " |"


_KINDS = ("whole", "two", "parts", "property")


def _dense(rows: list[Row]) -> list[str]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        for reason, (count, example) in row.get("missed", {}).items():
            entry = found.setdefault(reason, [0, f"{row['name']}: {example}"])
            entry[0] += count
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return [
        f"| {_cell(why)} | {n} | {_cell(example)} |" for why, (n, example) in ranked
    ]


def _model(row: Row) -> str:
    if row["status"] != "ok":
        return f"| {row['name']} | {row['status']} | | | | | {row.get('wall', '')} |"
    kind = {"whole": "one"}.get(row["captured"], row["captured"])
    masked = f"{row['graph']} of {row['masked']}"
    return (
        f"| {row['name']} | {kind} | {row['nodes']} | {masked} | {worst(row)} | "
        f"{_cell(row.get('fullgraph', ''))} | {row['seconds']} |"
    )


def _cell(text: Any) -> str:
    short = " ".join(str(text or "").split()).rstrip(")")
    return short.replace("|", "/")[:200]
