"""Runs a function of a test file in several processes that know each other (gloo)."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

SECONDS = 240  # a rank that waits in vain ends with an error


def together(world: int, run: Callable[[], None], folder: Path) -> list[str]:
    """What each of `world` processes prints while it runs the function.

    Args:
        world: number of processes.
        run: a function of a module; raises where something is wrong.
        folder: where the processes find each other.
    """
    command = [sys.executable, "-c", "from tests.many_ranks import main; main()"]
    rest = [str(world), str(folder / "store"), run.__module__, run.__name__]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        said = [rank.communicate(timeout=2 * SECONDS)[0] for rank in ranks]
    finally:
        for one in ranks:
            one.kill()
    codes = [rank.returncode for rank in ranks]
    assert codes == [0] * world, "\n".join(said)
    return said


def main() -> None:
    """What a process runs."""
    import torch
    import torch.distributed as dist

    rank, world, store, module, name = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=SECONDS),
    )
    getattr(importlib.import_module(module), name)()
    sys.stdout.flush()
    dist.barrier()  # a rank that leaves early can abort the other's gloo threads
    dist.destroy_process_group()
    os._exit(0)
