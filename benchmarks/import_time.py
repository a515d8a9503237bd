"""How much longer `import sparsefx` takes than `import torch`.

Each round starts one process for either, in turn, so that a machine that slows
down slows both. Run it from the root of the repository:

    python benchmarks/import_time.py --rounds 11
"""

import argparse
import subprocess
import sys
import time
from statistics import median


def seconds(module: str) -> float:
    """Wall time of a fresh process that imports the module and ends."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="time of `import sparsefx`")
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds

    seconds("sparsefx")  # reads the files once: neither side pays for a cold disk
    pairs = [(seconds("torch"), seconds("sparsefx")) for _ in range(rounds)]

    print(f"import torch     {median(torch for torch, _ in pairs):.3f} s")
    print(f"import sparsefx  {median(ours for _, ours in pairs):.3f} s")
    ratio = median(ours / torch for torch, ours in pairs)
    print(f"ratio            {ratio:.3f}  (medians of {rounds} rounds, in turn)")


if __name__ == "__main__":
    main()
