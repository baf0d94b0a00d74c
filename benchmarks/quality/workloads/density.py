"""A loss that becomes negative: the density of dequantised 8x8 digits, an autoregressive mixture of Gaussians, Adam.

The loss is the negative log-likelihood in nats per pixel. It starts above zero and ends below.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_PIXELS = 64
# One hidden unit for each pixel that another one can depend on.
_WIDTH = _PIXELS - 1
_COMPONENTS = 2
# Grey levels of the UCI digits, 0 to 16.
_LEVELS = 17
_MAX_SHIFT = 1
_LOWEST_SCALE = 1e-2


class _Masked(nn.Linear):
    """A linear layer of which some weights are held at zero; `mask` is (outputs, inputs)."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        n_outputs, n_inputs = mask.shape
        super().__init__(n_inputs, n_outputs)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class _Autoregressive(nn.Module):
    """Masked autoencoder (Germain et al. 2015, MADE) whose outputs are mixtures of Gaussians, one a pixel."""

    def __init__(self) -> None:
        super().__init__()
        pixels = torch.arange(_PIXELS)
        # Hidden unit d of a layer sees the pixels up to d; what it tells goes to the pixels after d.
        degrees = torch.arange(_WIDTH)
        inward = (degrees[:, None] >= pixels).float()
        across = (degrees[:, None] >= degrees).float()
        outward = (pixels[:, None] > degrees).float()
        self.network = nn.Sequential(
            _Masked(inward),
            nn.ReLU(),
            _Masked(across),
            nn.ReLU(),
            _Masked(outward.repeat(3 * _COMPONENTS, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Log-density (b, pixels) of each pixel of `x` (b, pixels), given those before it."""
        weight, mean, scale = self.network(x).view(len(x), 3, _COMPONENTS, _PIXELS).unbind(1)
        scale = functional.softplus(scale) + _LOWEST_SCALE
        exponents = -0.5 * ((x[:, None] - mean) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        density: Tensor = torch.logsumexp(weight.log_softmax(1) + exponents, 1)
        return density


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _dequantised(data: images.ImageSet, n: int, generator: torch.Generator) -> Batch:
    """Images (n, pixels) in [0, 1]; each grey level is spread over an interval (Uria et al. 2013, RNADE)."""
    drawn, _ = data.draw(n, generator, max_shift=_MAX_SHIFT, noise=0.0)
    levels = (drawn * (_LEVELS - 1)).flatten(1)
    return ((levels + torch.rand(levels.shape, generator=generator)) / _LEVELS,)


def _sample(generator: torch.Generator) -> Batch:
    return _dequantised(images.digits()[0], _BATCH_SIZE, generator)


def _validation() -> list[Batch]:
    return fixed_draws(lambda generator: _dequantised(images.digits()[1], 500, generator), 1)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    (pixels,) = batch
    loss: Tensor = -model(pixels).mean()
    return loss


WORKLOAD = Workload(
    name="density",
    version=VERSION,
    description="autoregressive density of dequantised 8x8 digits, negative log-likelihood, Adam",
    lr_range=(1e-4, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_Autoregressive,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=_loss,
    validation=_validation,
    # The inverse of the geometric mean of the density.
    score=math.exp,
)
