"""Lightning's Trainer with a tuned learning rate: one callback. `python examples/lightning_digits.py`, in one process.

In several: `torchrun --nproc-per-node 2 examples/lightning_digits.py`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lrpilot.integrations.lightning import TunerCallback
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

first = os.environ.get("RANK", "0") == "0"  # torchrun sets it, and LOCAL_WORLD_SIZE
logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")


class Digits(LightningModule):  # type: ignore[misc]  # Lightning's types are not read
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss = functional.cross_entropy(self.net(inputs), targets)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_loss", functional.cross_entropy(self.net(inputs), targets), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)  # no scheduler: the LR is the tuner's


seed_everything(0)
digits = load_digits()
inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
train_loader = DataLoader(TensorDataset(inputs[:1400], targets[:1400]), batch_size=64, shuffle=True)
val_loader = DataLoader(TensorDataset(inputs[1400:], targets[1400:]), batch_size=397)

callback = TunerCallback(validate="val_loss", lr_bounds=(1e-3, 1.0), name="digits")
trainer = Trainer(
    max_steps=1000,  # search included
    callbacks=[callback],
    accelerator="cpu",
    devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Digits(), train_loader, val_loader)

tuner = callback.tuner
if trainer.is_global_zero:
    steps = f"{tuner.committed_step} committed and {tuner.search_steps} search steps"
    print(f"{steps} on {trainer.world_size} processes; Lightning counts {trainer.global_step}")
    print(f"validation loss {trainer.callback_metrics['val_loss']:.4f}")
    tuner.schedule.save("schedule.json")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
