"""What transformers on text are made of: a block, and the loss of the token that follows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.workloads.base import Batch


class Block(nn.Module):
    """Pre-norm transformer block (Radford et al. 2019, GPT-2)."""

    def __init__(self, width: int, heads: int, activation: Callable[[], nn.Module], dropout: float = 0.0) -> None:
        """Makes one of `width` features; `dropout` is that of what is added to the residual stream."""
        super().__init__()
        self._heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            activation(),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        projected = self.query_key_value(self.attention_norm(x))
        query, key, value = projected.view(b, t, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.projection(mixed.transpose(1, 2).reshape(b, t, width)))
        out: Tensor = x + self.dropout(self.feed_forward(x))
        return out


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of what follows tokens (b, t), to which the model gives logits (b, t, vocabulary)."""
    tokens, following = batch
    return functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())
