"""A small transformer that reads Python, a character at a time; AdamW. `python examples/text.py`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import lrpilot
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

logging.basicConfig(level=logging.INFO, format="%(message)s")
torch.manual_seed(0)

CONTEXT, WIDTH, CHARACTERS = 64, 64, 128  # ASCII

source = "".join(path.read_text() for path in sorted(Path(os.__file__).parent.glob("[a-d]*.py")))
characters = torch.tensor([ord(character) for character in source if character.isascii()])
windows = characters.unfold(0, CONTEXT + 1, CONTEXT)  # (windows, CONTEXT + 1): what is read, and one more to guess
train_loader = DataLoader(TensorDataset(windows[:-256]), batch_size=16, shuffle=True)
held_out = windows[-256:]


class Transformer(nn.Module):
    """One block, pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(CONTEXT, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, read: Tensor) -> Tensor:
        """Logits (batch, CONTEXT, CHARACTERS) of the characters that follow `read` (batch, CONTEXT)."""
        embedded = self.embedding(read) + self.position
        logits: Tensor = self.head(self.block(embedded, src_mask=self.mask, is_causal=True))
        return logits


model = Transformer()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_of(window: Tensor) -> Tensor:
    """Nats a character, of windows (batch, CONTEXT + 1)."""
    return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


def validate() -> float:
    """Loss on text that is not trained on."""
    model.eval()
    with torch.no_grad():
        return loss_of(held_out).item()


with lrpilot.Tuner(model, optimizer, total_steps=2000, lr_bounds=(1e-4, 1e-1), validate=validate, name="text") as tuner:
    for (window,) in tuner.batches(train_loader):
        loss = loss_of(window)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)
    print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps, validation loss {validate():.4f}")
    tuner.schedule.save("schedule.json")
