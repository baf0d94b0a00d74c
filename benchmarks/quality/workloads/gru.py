"""Recurrent language model: a GRU on characters of the Python reference, RMSprop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
# A recurrent step costs the same for any small batch: a short context is what keeps this cheap.
_CONTEXT = 10
_WIDTH = 32


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(text.VOCABULARY_SIZE, _WIDTH // 2)
        self.recurrence = nn.GRU(_WIDTH // 2, _WIDTH)
        self.head = nn.Linear(_WIDTH, text.VOCABULARY_SIZE)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (t, b, vocabulary) for the characters that follow `characters` (b, t)."""
        hidden, _ = self.recurrence(self.embedding(characters.t()))
        logits: Tensor = self.head(hidden)
        return logits


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(model.parameters(), lr=3e-3, foreach=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = text.prose()
    return train.draw(_BATCH_SIZE, _CONTEXT, generator)


def _validation() -> list[Batch]:
    _, held_out = text.prose()
    return fixed_draws(lambda generator: held_out.draw(384, _CONTEXT, generator), 1)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    characters, following = batch
    return functional.cross_entropy(model(characters).flatten(0, 1), following.t().flatten())


WORKLOAD = Workload(
    name="gru",
    version=VERSION,
    description="GRU on characters of the Python reference, RMSprop",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_Recurrent,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=_loss,
    validation=_validation,
)
