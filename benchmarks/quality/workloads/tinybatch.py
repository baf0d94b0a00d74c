"""Batches of four: the next character of the Python reference from the eight before it, Adam.

The network is the neural probabilistic language model of Bengio et al. 2003.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 4
_CONTEXT = 8
_EMBEDDING = 16
_WIDTH = 64


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(text.VOCABULARY_SIZE, _EMBEDDING),
        nn.Flatten(),
        nn.Linear(_CONTEXT * _EMBEDDING, _WIDTH),
        nn.Tanh(),
        nn.Linear(_WIDTH, text.VOCABULARY_SIZE),
    )


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _windows(data: text.Text, n: int, generator: torch.Generator) -> Batch:
    """Contexts (n, context) and the character (n,) that follows each."""
    contexts, following = data.draw(n, _CONTEXT, generator)
    return contexts, following[:, -1]


def _sample(generator: torch.Generator) -> Batch:
    train, _ = text.prose()
    return _windows(train, _BATCH_SIZE, generator)


def _validation() -> list[Batch]:
    _, held_out = text.prose()
    return fixed_draws(lambda generator: _windows(held_out, 4000, generator), 1)


WORKLOAD = Workload(
    name="tinybatch",
    version=VERSION,
    description="feed-forward language model on characters of the Python reference, batches of four, Adam",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
