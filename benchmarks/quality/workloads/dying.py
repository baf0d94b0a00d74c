"""Classification that dies at a high LR: MNIST at 14x14, a narrow unnormalised end of ReLUs, SGD with momentum.

Once the units before the output are dead for every image, no gradient passes, and the loss stays at chance, log 10.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 16
_WIDTH = 32
_MAX_SHIFT = 1
_NOISE = 0.1


def _model() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, _WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.mnist()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _validation() -> list[Batch]:
    _, held_out = images.mnist()
    return fixed_draws(lambda generator: held_out.draw(1000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="dying",
    version=VERSION,
    description="conv net with unnormalised last layers on noisy MNIST 14x14, SGD momentum",
    lr_range=(1e-3, 1.0),
    lr_grid=half_decades(1e-3, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
