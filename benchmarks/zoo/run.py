"""Transforms every model of a zoo and says what was covered and whether it is equal.

Each model runs in a process of its own with a timeout; every result is one line of a
file, so that a run that was stopped goes on where it was. From the repository's root,
with the extra `zoo` installed:

    python benchmarks/zoo/run.py                          # all models, those missing
    python benchmarks/zoo/run.py --only 'hf/*' --again    # some of them, anew
    python benchmarks/zoo/run.py --report docs/coverage.md
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = str(Path(__file__).parents[1])
sys.path.insert(0, HERE)
# the server that forks is told so by its environment only
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="a glob of names, such as 'timm/*'")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300, help="seconds a model")
    parser.add_argument("--again", action="store_true", help="rerun what is known")
    parser.add_argument("--compile", action="store_true", help="only torch.compile")
    parser.add_argument("--results", type=Path, default=Path("build/zoo.jsonl"))
    parser.add_argument("--report", type=Path, help="write the table and stop")
    options = parser.parse_args()
    if options.report:
        from zoo.coverage_page import render

        options.report.write_text(render(list(known(options.results).values())))
        return
    from zoo.catalogue import names

    field = "fullgraph" if options.compile else "status"
    code = revision()
    found = known(options.results)
    wanted = [
        name
        for name in names()
        if any(fnmatchcase(name, part) for part in options.only.split(","))
        and (options.again or field not in found.get(name, {}))
    ]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoo.preload"])
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = pool.map(
            lambda name: run(context, name, options.timeout, options.compile), wanted
        )
        for count, row in enumerate(rows, 1):
            merged = known(options.results).get(str(row["name"]), {}) | row
            merged["revision"] = code
            with options.results.open("a") as file:
                file.write(json.dumps(merged) + "\n")
            print(f"{count}/{len(wanted)} {summary(row)}", flush=True)


def revision() -> str:
    """What the checkout is at, for the table; "" outside of one."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    return done.stdout.strip()


def known(path: Path) -> dict[str, Row]:
    """The last result of every model."""
    lines: Iterator[str] = iter(path.read_text().splitlines() if path.exists() else ())
    rows = [json.loads(line) for line in lines]
    return {row["name"]: row for row in rows}


def run(context: object, name: str, timeout: float, compiled: bool) -> Row:
    """One model in a process of its own."""
    receive, send = context.Pipe(duplex=False)
    start = time.perf_counter()
    process = context.Process(target=work, args=(name, compiled, send))
    process.start()
    send.close()
    row: Row = {"name": name, "status": "timeout"}
    try:
        if receive.poll(timeout):
            row = {"name": name, **receive.recv()}
    except EOFError:
        row["status"] = "crashed"
    process.kill()
    process.join()
    return row | {"wall": round(time.perf_counter() - start, 1)}


def work(name: str, compiled: bool, send: object) -> None:
    from zoo.checks import check, check_compile

    send.send(check_compile(name) if compiled else check(name))


def summary(row: Row) -> str:
    parts = [str(row.get(key, "")) for key in ("name", "status", "captured")]
    parts += [f"{key}={value}" for key, value in dict(row.get("equal", {})).items()]
    parts += [f"{key}={row[key]}" for key in ("fullgraph", "wall") if key in row]
    if row.get("error") or row.get("reason"):
        parts.append(f"[{row.get('error') or row.get('reason')}]"[:300])
    return " ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
