"""Classification with batch normalisation: MNIST at 14x14, shifted and noisy, SGD with momentum."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_MAX_SHIFT = 2
_NOISE = 0.25


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.mnist()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _validation() -> list[Batch]:
    _, held_out = images.mnist()
    return fixed_draws(lambda generator: held_out.draw(1000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="convnet",
    version=VERSION,
    description="small batch-normalised conv net on noisy MNIST 14x14, SGD momentum",
    lr_range=(1e-3, 1.0),
    lr_grid=half_decades(1e-3, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
