"""A small GPT on bytes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.workloads.transformer_block import Block

N_BYTES = 256
_STD = 0.02
"""The standard deviation of initial weights, as GPT-2 has it; that of what is added to the residual stream is over the
root of the number of additions."""


class Gpt(nn.Module):
    """A decoder after GPT-2 (Radford et al. 2019), whose output layer is its embedding."""

    def __init__(self, n_blocks: int, width: int, heads: int, context: int, dropout: float) -> None:
        """Makes one with weights from PyTorch's random state."""
        super().__init__()
        self.embedding = nn.Embedding(N_BYTES, width)
        self.position = nn.Parameter(torch.zeros(context, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, nn.GELU, dropout) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(width)
        self._initialise(1 / math.sqrt(2 * n_blocks))

    def _initialise(self, into_residual: float) -> None:
        nn.init.normal_(self.position, std=_STD)
        nn.init.normal_(self.embedding.weight, std=_STD)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                adds = name.endswith(("projection", "feed_forward.3"))
                nn.init.normal_(module.weight, std=_STD * (into_residual if adds else 1.0))
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (b, t, 256) for the bytes that follow `tokens` (b, t)."""
        x = self.dropout(self.embedding(tokens) + self.position)
        return functional.linear(self.norm(self.blocks(x)), self.embedding.weight)
