"""A run that ends when going on is not worth it, beside the same run to its end. `python examples/stopping.py`."""

from __future__ import annotations

import lrpilot
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

TOTAL_STEPS = 3000

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
data = TensorDataset(inputs[:1400], targets[:1400])


def train(stop_when: str | None) -> tuple[int, float]:
    """Trains a network, and gives the steps that were run and its validation loss."""
    torch.manual_seed(0)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            return functional.cross_entropy(model(inputs[1400:]), targets[1400:]).item()

    with lrpilot.Tuner(
        model,
        optimizer,
        total_steps=TOTAL_STEPS,
        lr_bounds=(1e-3, 1.0),
        validate=validate,
        stop_when=stop_when,
        name=f"stop_when={stop_when}",
    ) as tuner:
        for x, y in tuner.batches(loader):
            loss = functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            optimizer.zero_grad()
            tuner.step(loss)
        for change in tuner.schedule.replans:
            print(f"stopped after {change.step} committed steps: {change.reason}")
        return tuner.committed_step + tuner.search_steps, validate()


_, whole_loss = train(None)
steps, loss = train("3%")
print(f"{steps} of {TOTAL_STEPS} steps were run, and the validation loss came to {loss:.4f}")
print(f"going on to the end gave {whole_loss:.4f}, which is {loss - whole_loss:.4f} less")
