"""Character-level language model: a small transformer on Python source, AdamW."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades
from benchmarks.quality.workloads.transformer_block import Block, next_token_loss

VERSION = 1
_BATCH_SIZE = 16
_CONTEXT = 32
_WIDTH = 32
_HEADS = 2


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(text.VOCABULARY_SIZE, _WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(_CONTEXT, _WIDTH))
        self.blocks = nn.Sequential(Block(_WIDTH, _HEADS, nn.ReLU), nn.LayerNorm(_WIDTH))
        self.head = nn.Linear(_WIDTH, text.VOCABULARY_SIZE)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (b, t, vocabulary) for the characters that follow `characters` (b, t)."""
        logits: Tensor = self.head(self.blocks(self.embedding(characters) + self.position))
        return logits


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = text.code()
    return train.draw(_BATCH_SIZE, _CONTEXT, generator)


def _validation() -> list[Batch]:
    _, held_out = text.code()
    return fixed_draws(lambda generator: held_out.draw(96, _CONTEXT, generator), 1)


WORKLOAD = Workload(
    name="chartransformer",
    version=VERSION,
    description="one-layer transformer on characters of Python source, AdamW",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_Transformer,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=next_token_loss,
    validation=_validation,
)
