"""Regression: the clean MNIST image from one with half of its pixels hidden, plain SGD with momentum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_HIDDEN_SHARE = 0.5
_PIXELS = 14 * 14
_WIDTH = 64


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(_PIXELS, _WIDTH),
        nn.Tanh(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.Tanh(),
        nn.Linear(_WIDTH, _PIXELS),
    )


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)


def _masked(data: images.ImageSet, n: int, generator: torch.Generator) -> Batch:
    clean, _ = data.draw(n, generator, max_shift=2, noise=0.0)
    clean = clean.flatten(1)
    visible = torch.rand(clean.shape, generator=generator) > _HIDDEN_SHARE
    # Centred, so that a hidden pixel (0) is told from a black one.
    return (clean - 0.5) * visible, clean


def _sample(generator: torch.Generator) -> Batch:
    return _masked(images.mnist()[0], _BATCH_SIZE, generator)


def _validation() -> list[Batch]:
    return fixed_draws(lambda generator: _masked(images.mnist()[1], 1000, generator), 1)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    visible, clean = batch
    # Summed over pixels, as squared error of an image: a mean would only shift the range of useful LRs.
    return functional.mse_loss(model(visible), clean, reduction="sum") / len(clean)


WORKLOAD = Workload(
    name="inpainting",
    version=VERSION,
    description="tanh perceptron that fills in hidden MNIST pixels, squared error, SGD momentum",
    lr_range=(1e-3, 1.0),
    lr_grid=half_decades(3.2e-4, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=_loss,
    validation=_validation,
)
