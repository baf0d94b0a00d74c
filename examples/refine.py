"""Gradient norms recorded, the schedule that they ask for, and a run along it. `python examples/refine.py`.

It takes half a minute, and no server has to be started. `lrpilot refine` takes a job's id as well as a file.
"""

from __future__ import annotations

import subprocess
import sys

import lrpilot
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

STEPS = 2000

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
loader = DataLoader(TensorDataset(inputs[:1400], targets[:1400]), batch_size=64, shuffle=True)


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its optimizer, as they begin."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One update; the loss before it."""
    # With noise on the images no batch is ever learnt by heart, so that gradients don't vanish before the end.
    loss = functional.cross_entropy(model(x + 0.3 * torch.randn_like(x)), y)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    optimizer.step()
    optimizer.zero_grad()
    return loss


def validate(model: nn.Module) -> float:
    """Loss on the images that are not trained on."""
    model.eval()
    with torch.no_grad():
        loss = functional.cross_entropy(model(inputs[1400:]), targets[1400:]).item()
    model.train()
    return loss


# First a run that is tuned. Its last LRs are those of a decay to zero, since a schedule keeps no average of weights.
model, optimizer = build()
with lrpilot.Tuner(
    model,
    optimizer,
    total_steps=STEPS,
    lr_bounds=(1e-3, 1.0),
    validate=lambda: validate(model),
    record=("gradient_norm",),  # of Adam and its relatives "gradient_l1_norm"
    policy_options={"ending": "zero"},
    name="digits",
) as tuner:
    for x, y in tuner.batches(loader):
        tuner.step(step(model, optimizer, x, y))
    tuner.schedule.save("schedule.json")
print(f"tuned:   validation loss {validate(model):.4f}")

# Then the schedule that its norms ask for, with a picture of both.
refine = ["refine", "schedule.json", "-o", "refined.json", "--plot", "refined.png"]
subprocess.run([sys.executable, "-m", "tuner_server", *refine], check=True)


def replayed(file: str) -> float:
    """The validation loss after a run along a saved schedule."""
    schedule = lrpilot.Schedule.load(file)
    model, optimizer = build()
    scheduler = schedule.scheduler(optimizer)
    done = 0
    while done < schedule.n_steps:
        for x, y in loader:
            if done == schedule.n_steps:
                break
            step(model, optimizer, x, y)
            scheduler.step()
            done += 1
    return validate(model)


for file in ("schedule.json", "refined.json"):
    print(f"along {file}: validation loss {replayed(file):.4f}")
