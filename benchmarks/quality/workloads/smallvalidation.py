"""A hundred validation examples: a perceptron on noisy MNIST at 14x14, AdamW, judged by other held-out images."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_WIDTH = 64
_MAX_SHIFT = 2
_NOISE = 0.25
_VALIDATED = 100


def _layer(n_inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_inputs, _WIDTH), nn.LayerNorm(_WIDTH), nn.GELU())


def _model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), _layer(14 * 14), _layer(_WIDTH), nn.Linear(_WIDTH, 10))


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.mnist()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _held_out() -> tuple[images.ImageSet, images.ImageSet]:
    """What contestants may look at, and the images that they are judged by: no image is in both."""
    _, held_out = images.mnist()
    return (
        images.ImageSet(held_out.images[:_VALIDATED], held_out.labels[:_VALIDATED]),
        images.ImageSet(held_out.images[_VALIDATED:], held_out.labels[_VALIDATED:]),
    )


def _validation() -> list[Batch]:
    seen, _ = _held_out()
    return fixed_draws(lambda generator: seen.draw(_VALIDATED, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


def _judging() -> list[Batch]:
    _, unseen = _held_out()
    return fixed_draws(lambda generator: unseen.draw(4000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="smallvalidation",
    version=VERSION,
    description="layer-normalised perceptron on noisy MNIST 14x14, a hundred validation examples, AdamW",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
    judging=_judging,
)
