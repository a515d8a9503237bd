"""When does a network recover from pruning? Early, while the learning rate is high.

Trains a small network on digits, prunes copies of it at several moments, trains each
copy on for as many steps, and prints the change of accuracy, with and without the
regrowth of weights by their gradient.

Needs: pip install "sparsefx[examples]"
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import sparsefx

STEPS, ON, BATCH, SEEDS = 400, 100, 64, 3
RATES = (0.9, 0.95)

digits = load_digits()
x_all = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
x_train, x_test, y_train, y_test = train_test_split(
    x_all, torch.tensor(digits.target), stratify=digits.target, random_state=0
)


def rate_at(step):
    """The learning rate: divided by ten after half and after three quarters."""
    return 0.1 * 0.1 ** ((step >= STEPS // 2) + (step >= 3 * STEPS // 4))


def loss(model):
    rows = torch.randint(len(x_train), (BATCH,))
    return F.cross_entropy(model(x_train[rows]), y_train[rows])


def train(model, first, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(first, first + steps):
        optimizer.param_groups[0]["lr"] = rate_at(step)
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model):
    return 100 * (model(x_test).argmax(1) == y_test).float().mean().item()


print("pruned at step, rate: change of accuracy (with regrowth)")
for moment in (100, 200, 300, 400):
    for rate in RATES:
        found = {0.0: [], 0.5: []}
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            train(net, 0, moment)
            for regrow, values in found.items():
                torch.manual_seed(seed)
                result = sparsefx.pruning_plasticity(
                    copy.deepcopy(net),
                    rate=rate,
                    regrow=regrow,
                    backward=lambda model: loss(model).backward(),
                    train=lambda model, first=moment: train(model, first, ON),
                    evaluate=accuracy,
                    example_inputs=(x_test[:2],),
                )
                values.append(result.plasticity)
        plain, grown = (sum(v) / len(v) for v in found.values())
        print(f"{moment:4d}, {rate:.0%}: {plain:+6.2f} ({grown:+6.2f})")
