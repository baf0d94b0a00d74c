"""The tutorial's program: a small network on scikit-learn's digits. `python examples/tutorial.py`."""

from __future__ import annotations

import lrpilot
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
digits = load_digits()  # 1,797 handwritten digits of 8 by 8 points
order = torch.randperm(len(digits.target))
inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
targets = torch.tensor(digits.target)[order]
loader = DataLoader(TensorDataset(inputs[:1400], targets[:1400]), batch_size=64, shuffle=True)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)  # the LR is a guess, and a bad one


def validate() -> float:
    """Gives the loss on the 397 digits that are not trained on."""
    model.eval()
    with torch.no_grad():
        return functional.cross_entropy(model(inputs[1400:]), targets[1400:]).item()


with lrpilot.Tuner(model, optimizer, total_steps=2_000, validate=validate, name="tutorial") as tuner:
    for x, y in tuner.batches(loader):
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)

print(f"validation loss {validate():.3f}")
tuner.schedule.save("schedule.json")
tuner.schedule.plot("schedule.png")
