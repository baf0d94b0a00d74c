"""A small run in Keras, on the backend that this process has: `KERAS_BACKEND`, or else PyTorch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # the backend is chosen once, before the import
from lrpilot.backends.keras_backend import KerasBackend, to_numpy

from tests.support.backends.small_run import N_FEATURES, WIDTH, SmallRun, Validate


class KerasRun(SmallRun):
    """Batch statistics, dropout, SGD with momentum; Keras' optimizers have one LR."""

    base_lrs = (0.02,)

    def __init__(self, validate: Validate | None = None, width: int = WIDTH) -> None:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((N_FEATURES,)),
                layers.Dense(width, "tanh"),
                layers.BatchNormalization(),
                layers.Dropout(0.2),
                layers.Dense(1),
            ]
        )
        self.model.compile(keras.optimizers.SGD(self.base_lrs[0], momentum=0.9), "mse")
        self.model.optimizer.build(self.model.trainable_variables)  # as `fit` does before its first callback
        self._keras = self.backend = KerasBackend(self.model, None if validate is None else lambda: validate(self))

    def update(self, batch: np.ndarray[Any, Any]) -> Any:
        return self._keras.train_on((batch, batch.sum(1, keepdims=True)))

    def bits(self) -> list[bytes]:
        modes = []
        if keras.config.backend() == "torch":  # Keras' dicts of parameters are modules too, whose modes it minds not.
            modes = [module.training for module in self.model.modules() if isinstance(module, keras.Layer)]
        return [bytes(modes), *(value.tobytes() for value in self.save())]

    def evaluate(self) -> float:
        rows = np.ones((3, N_FEATURES), np.float32) * np.random.rand()
        loss: float = self.model.evaluate(rows, rows.sum(1, keepdims=True), verbose=0)
        return loss

    def scalar(self, value: float) -> Any:
        return keras.ops.convert_to_tensor(value, "float32")

    def array(self, n: int) -> Any:
        return keras.ops.zeros(n)

    def save(self) -> Any:
        return [to_numpy(variable).copy() for variable in self._variables()]

    def load(self, saved: Any) -> None:
        for variable, value in zip(self._variables(), saved, strict=True):
            variable.assign(value)

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]
