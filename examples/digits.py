"""One GPU, or none, on a desk: no server to start. `python examples/digits.py`."""

from __future__ import annotations

import logging

import lrpilot
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(0)

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
train_loader = DataLoader(TensorDataset(inputs[:1400], targets[:1400]), batch_size=64, shuffle=True)

model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def validate() -> float:
    """Loss on the images that are not trained on."""
    model.eval()
    with torch.no_grad():
        return functional.cross_entropy(model(inputs[1400:]), targets[1400:]).item()


with lrpilot.Tuner(
    model, optimizer, total_steps=2000, lr_bounds=(1e-3, 1.0), validate=validate, name="digits"
) as tuner:
    for x, y in tuner.batches(train_loader):
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)
    print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps, validation loss {validate():.4f}")
    tuner.schedule.save("schedule.json")
