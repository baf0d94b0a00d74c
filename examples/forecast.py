"""Half-way, what would the rest give, or an annealing now? Then the truth. `python examples/forecast.py`."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import lrpilot
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(0)

CONTEXT, CHARACTERS, STEPS, ASKED_AT, LAST = 8, 128, 3000, 1800, 100
source = "".join(path.read_text() for path in sorted(Path(os.__file__).parent.glob("[a-d]*.py")))
characters = torch.tensor([ord(character) for character in source if character.isascii()])
windows = characters.unfold(0, CONTEXT + 1, 3)  # what is read, and one more character to guess
loader = DataLoader(TensorDataset(windows), batch_size=128, shuffle=True)

model = nn.Sequential(
    nn.Embedding(CHARACTERS, 16), nn.Flatten(), nn.Linear(16 * CONTEXT, 128), nn.GELU(), nn.Linear(128, CHARACTERS)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def forecasts(job_id: str) -> dict[str, Any]:
    """The losses at the end of what is planned, and of an annealing now, as the command line forecasts them."""
    command = ["lrpilot", "forecast", job_id, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[
        "forecasts"
    ]
    return found


asked: dict[str, Any] = {}
with lrpilot.Tuner(model, optimizer, total_steps=STEPS, lr_bounds=(1e-4, 1e-1), name="forecast") as tuner:
    for (window,) in tuner.batches(loader):
        loss = functional.cross_entropy(model(window[:, :-1]), window[:, -1])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)
        if not asked and tuner.committed_step >= ASKED_AT and tuner.job_id:
            asked = forecasts(tuner.job_id)
            for name in ("annealing_now", "planned"):
                one = asked[name]
                print(f"{name}: {one['loss']:.4f} ± {one['standard_error']:.4f}, {one['steps']} steps on")
    losses = tuner.schedule.losses[-LAST:]
print(f"the truth: {sum(losses) / LAST:.4f}, the mean loss of the last {LAST} steps")
