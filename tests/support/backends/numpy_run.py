"""A small run in NumPy: the example of the page on bringing a framework."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.numpy_backend import Momentum, NumpyBackend, Softmax
from tests.support.backends.small_run import N_FEATURES, WIDTH, SmallRun, Validate


class NumpyRun(SmallRun):
    """Softmax regression, SGD with momentum over weights and bias."""

    base_lrs = (0.02, 0.06)

    def __init__(self, validate: Validate | None = None, width: int = WIDTH) -> None:
        self.model = Softmax(N_FEATURES, width)
        self.optimizer = Momentum([self.model.weights, self.model.bias], self.base_lrs)
        self.backend = NumpyBackend(self.optimizer, None if validate is None else lambda: validate(self))

    def update(self, batch: np.ndarray[Any, Any]) -> Any:
        classes = (batch.sum(1) > 0).astype(int)
        loss = self.model.loss(batch, classes)
        self.optimizer.update(self.model.gradients(batch, classes))
        return loss

    def bits(self) -> list[bytes]:
        return [array.tobytes() for array in (*self.optimizer.arrays, *self.optimizer.velocities)]

    def evaluate(self) -> float:
        return self.model.loss(np.full((3, N_FEATURES), np.random.rand()), np.arange(3) % 2)

    def scalar(self, value: float) -> Any:
        return np.asarray(value)

    def array(self, n: int) -> Any:
        return np.zeros(n)

    def save(self) -> Any:
        return [array.copy() for array in (*self.optimizer.arrays, *self.optimizer.velocities)], self.optimizer.lrs[:]

    def load(self, saved: Any) -> None:
        arrays, lrs = saved
        for array, copy in zip((*self.optimizer.arrays, *self.optimizer.velocities), arrays, strict=True):
            array[...] = copy
        self.optimizer.lrs[:] = lrs
