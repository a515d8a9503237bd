"""Trains on kept weights alone: RigL in less time and memory than the dense network.

Between two updates of its masks RigL needs no weight that it has dropped. With
`execution="sparse"` linear layers then store and multiply kept weights only, where that
is measured to be faster, and so does the optimizer. The network is that of masked
training.

    python examples/sparse_training.py           # a minute or two on one core
    python examples/sparse_training.py --quick

Needs: pip install "sparsefx[examples]"
"""

import sys
import time
import warnings

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import sparsefx

QUICK = "--quick" in sys.argv
STEPS, WIDTH, BATCH = (12, 128, 64) if QUICK else (300, 1024, 256)

torch.set_num_threads(1)
digits = load_digits()
x_all = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
x_train, x_test, y_train, y_test = train_test_split(
    x_all, torch.tensor(digits.target), stratify=digits.target, random_state=0
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(64, WIDTH), nn.ReLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
        nn.Linear(WIDTH, 10),
    )


def stored(model, optimizer):
    """Megabytes of weights and moments."""
    tensors = [*model.parameters()]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in tensors) / 1e6


def train(model, sparse):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    begin = time.process_time()
    for step in range(STEPS):
        torch.manual_seed(step)
        rows = torch.randint(len(x_train), (BATCH,))
        F.cross_entropy(model(x_train[rows]), y_train[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if sparse:
            sparsefx.step(model, optimizer=optimizer)  # moments move with the masks
    return time.process_time() - begin, stored(model, optimizer)


print("training                CPU s     MB   accuracy")
for name in ("dense", "masked", "sparse"):
    model = network()
    if name != "dense":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small layers may all be faster masked
            model = sparsefx.transform(
                model,
                "rigl",
                budget={"params": 0.05},
                total_steps=STEPS,
                update_every=max(STEPS // 20, 2),
                example_inputs=(x_train[:BATCH],),
                execution=name,
            )
    seconds, megabytes = train(model, name != "dense")
    plain = model if name == "dense" else sparsefx.finalize(model)
    with torch.no_grad():
        right = (plain(x_test).argmax(1) == y_test).double().mean()
    print(f"{name:22} {seconds:6.1f} {megabytes:6.1f} {100 * right:8.1f} %")
