"""Train a small network to 10 % of its MACs; what `sparsefx demo` does, in full view.

Needs: pip install "sparsefx[examples]"
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import sparsefx

EPOCHS, BATCH = 20, 64

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
labels = torch.tensor(digits.target)
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=0
)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 10),
)
steps = len(x_train) // BATCH  # whole batches an epoch
total_steps = EPOCHS * steps
sparse = sparsefx.transform(
    model,
    policy="cost_budget",
    budget={"macs": 0.1},
    example_inputs=(x_train[:2],),
    total_steps=total_steps,
)

optimizer = torch.optim.AdamW(sparse.parameters(), lr=5e-3, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=total_steps)
for epoch in range(EPOCHS):
    for batch in torch.randperm(len(x_train))[: steps * BATCH].split(BATCH):
        F.cross_entropy(sparse(x_train[batch]), y_train[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        info = sparsefx.step(sparse)
    if epoch % 5 == 0:
        print(
            f"epoch {epoch}: {info.hard_cost:,.0f} MACs of {info.budget:,.0f} allowed"
        )

print(sparsefx.report(sparse))
dense = sparsefx.finalize(sparse).eval()  # a plain nn.Sequential again
with torch.no_grad():
    accuracy = (dense(x_test).argmax(1) == y_test).float().mean().item()
print(f"test accuracy {accuracy:.1%}")
