"""Residual convolutions with group normalisation: noisy digits, SGD with Nesterov momentum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_CHANNELS = 12
_MAX_SHIFT = 1
_NOISE = 0.2


class _Block(nn.Module):
    """Pre-activation residual block (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, _CHANNELS)
        self.conv = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(functional.relu(self.norm(x)))
        return x + residual


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, _CHANNELS, 3, stride=2, padding=1),
        _Block(),
        _Block(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(_CHANNELS * 4 * 4, 10),
    )


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.digits()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _validation() -> list[Batch]:
    _, held_out = images.digits()
    return fixed_draws(lambda generator: held_out.draw(1000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="resnet",
    version=VERSION,
    description="residual conv net with group normalisation on noisy 8x8 digits, SGD Nesterov",
    lr_range=(1e-3, 1.0),
    lr_grid=half_decades(1e-3, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
