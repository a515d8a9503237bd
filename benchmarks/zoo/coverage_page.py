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
    real = [row for row in rows if not str(row["name"]).startswith("traps/")]
    lines = [
        "# Coverage",
        "",
        "Made by `benchmarks/zoo/run.py --report docs/coverage.md`; do not edit.",
        "",
        "Each model is transformed at density 1 and compared with itself as it was:",
        "outputs in eval, at another batch size, of a training step, its gradients and",
        "buffers; then half of every weight is masked, against the model with those",
        "weights zeroed. *one* graph serves both modes, *two* one for each, *parts*",
        "graphs of submodules with Python around them. *bit* is bitwise equal, *close*",
        "within 1e-5 (torch runs its encoder layers by one fused kernel in eval,",
        "graphs by their parts). *masked*: parameters in a graph, of those masked.",
        "*fullgraph* is `torch.compile(fullgraph=True)` of the original | of ours, on",
        "a sample. *seconds* are CPU seconds of `transform`. *refused* models have a",
        "part that cannot be masked, and the error names it. *untouched* is the model",
        "that was given, bit by bit; *keys* are those of `finalize(...).state_dict()`.",
        "",
        *_summary(real, rows),
        *_revisions(rows),
        "",
        "| family | models | masked without error | refused | one graph | two | parts "
        "| property | eval bitwise | all bitwise | all close | a difference "
        "| untouched, keys kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
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


def _summary(rows: list[Row], everything: list[Row]) -> list[str]:
    """The share of whole graphs and the slowest capture, of all but the traps."""
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        return []
    whole = sum(row["captured"] in ("whole", "two") for row in good)
    slow = max(good, key=lambda row: float(row["seconds"]))
    tried = sum("fullgraph" in row for row in everything)
    return [
        f"Of {len(rows)} models, the traps apart, {whole} ({whole / len(rows):.1%})",
        f"are one graph, or one for each mode; {len(good)} are masked without error.",
        f"The slowest, {slow['name']}, took {slow['seconds']} s.",
        f"`torch.compile(fullgraph=True)` was tried on {tried} of all.",
    ]


def _revisions(rows: list[Row]) -> list[str]:
    """How many rows were measured at which revision of the code."""
    found = Counter(str(row["revision"]) for row in rows if row.get("revision"))
    counts = ", ".join(f"{name} ({count})" for name, count in found.most_common())
    return [f"Rows by revision: {counts}."] if found else []


def worst(row: Row) -> str:
    """The least equal of a model's comparisons."""
    found = list(row.get("equal", {}).values()) or ["differs"]
    return str(max(found, key=("bit", "close", "differs").index))


def _total(name: str, rows: list[Row]) -> str:
    good = [row for row in rows if row["status"] == "ok"]
    kinds = Counter(row["captured"] for row in good)
    equal = Counter(worst(row) for row in good)
    kept = sum(bool(row["untouched"] and row["keys"]) for row in good)
    refused = sum(row["status"] == "refused" for row in rows)
    counts = [len(rows), len(good), refused, *(kinds[k] for k in _KINDS)]
    counts.append(sum(row["equal"]["eval"] == "bit" for row in good))
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
    short = " ".join(str(text or "").split())
    return short.replace("|", "/")[:200]
