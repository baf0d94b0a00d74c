"""Classification without any normalisation: digits under heavy noise, Adam."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_WIDTH = 96
_MAX_SHIFT = 1
_NOISE = 0.25


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, _WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, 10),
    )


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.digits()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _validation() -> list[Batch]:
    _, held_out = images.digits()
    return fixed_draws(lambda generator: held_out.draw(2000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="mlp",
    version=VERSION,
    description="two-layer perceptron on noisy 8x8 digits, Adam",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
