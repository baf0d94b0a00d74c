"""Character-level language model: a small transformer on Python source, AdamW."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 16
_CONTEXT = 32
_WIDTH = 32
_HEADS = 2


class _Block(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019, GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(_WIDTH)
        self.query_key_value = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.projection = nn.Linear(_WIDTH, _WIDTH)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(_WIDTH),
            nn.Linear(_WIDTH, 4 * _WIDTH),
            nn.ReLU(),
            nn.Linear(4 * _WIDTH, _WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        projected = self.query_key_value(self.attention_norm(x))
        query, key, value = projected.view(b, t, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(b, t, _WIDTH))
        out: Tensor = x + self.feed_forward(x)
        return out


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(text.VOCABULARY_SIZE, _WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(_CONTEXT, _WIDTH))
        self.blocks = nn.Sequential(_Block(), nn.LayerNorm(_WIDTH))
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


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    characters, following = batch
    return functional.cross_entropy(model(characters).flatten(0, 1), following.flatten())


WORKLOAD = Workload(
    name="chartransformer",
    version=VERSION,
    description="one-layer transformer on characters of Python source, AdamW",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_Transformer,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=_loss,
    validation=_validation,
)
