"""A training loop with Hugging Face Accelerate. `python examples/accelerate_digits.py`, in one process.

In several: `accelerate launch --multi-gpu --num-processes 2 examples/accelerate_digits.py`; without GPUs, with
`ACCELERATE_USE_CPU=true` before it.
"""

from __future__ import annotations

import logging

import lrpilot.integrations.accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
loader = DataLoader(TensorDataset(inputs[:1400], targets[:1400]), batch_size=32, shuffle=True, drop_last=True)

# Of a replayed batch nobody knows whether it was the last one of its epoch.
accumulation = GradientAccumulationPlugin(num_steps=2, sync_with_dataloader=False)
accelerator = Accelerator(gradient_accumulation_plugin=accumulation)
logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.WARNING, format="%(message)s")
model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters())
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
test_inputs, test_targets = inputs[1400:].to(accelerator.device), targets[1400:].to(accelerator.device)


def validate() -> float:
    """Loss on the images that are not trained on."""
    model.eval()
    with torch.no_grad():
        return functional.cross_entropy(model(test_inputs), test_targets).item()


with lrpilot.integrations.accelerate.tuner(
    accelerator, model, optimizer, total_steps=800, lr_bounds=(1e-4, 1e-1), validate=validate, name="digits"
) as tuner:
    losses = []
    for x, y in tuner.batches(loader):
        with accelerator.accumulate(model):
            loss = functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if accelerator.sync_gradients:  # the optimizer made a step
            tuner.step(torch.stack(losses).mean())
            losses.clear()
    steps = f"{tuner.committed_step} committed and {tuner.search_steps} search steps"
    accelerator.print(f"{steps} on {accelerator.num_processes} processes, validation loss {validate():.4f}")
    if accelerator.is_main_process:
        tuner.schedule.save("schedule.json")
accelerator.end_training()  # several processes take leave of one another
