"""A framework that LRPilot does not know, a training loop in NumPy: `python examples/numpy_backend.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from lrpilot.backends.host_backend import HostBackend
from lrpilot.backends.validator import Validator
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState
from lrpilot.run.driver import Driver
from lrpilot.run.options import JobOptions
from sklearn.datasets import load_digits

Array = np.ndarray[Any, Any]


class Softmax:
    """The framework's model: softmax regression, with weights and a bias that are changed in place."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        self.weights = np.zeros((n_features, n_classes))
        self.bias = np.zeros(n_classes)

    def loss(self, inputs: Array, targets: Array) -> float:
        return float(-np.log(self._probabilities(inputs)[np.arange(len(targets)), targets]).mean())

    def gradients(self, inputs: Array, targets: Array) -> list[Array]:
        errors = self._probabilities(inputs)
        errors[np.arange(len(targets)), targets] -= 1
        return [inputs.T @ errors / len(targets), errors.mean(0)]

    def _probabilities(self, inputs: Array) -> Array:
        scores = inputs @ self.weights + self.bias
        exponentials = np.exp(scores - scores.max(1, keepdims=True))
        shares: Array = exponentials / exponentials.sum(1, keepdims=True)
        return shares


class Momentum:
    """The framework's optimizer: SGD with momentum, and an LR for each array."""

    def __init__(self, arrays: Sequence[Array], lrs: Sequence[float]) -> None:
        self.arrays = list(arrays)
        self.velocities = [np.zeros_like(array) for array in arrays]
        self.lrs = list(lrs)

    def update(self, gradients: Sequence[Array]) -> None:
        for array, velocity, lr, gradient in zip(self.arrays, self.velocities, self.lrs, gradients, strict=True):
            velocity *= 0.9
            velocity += gradient
            array -= lr * velocity


class NumpyBackend(HostBackend):
    """What LRPilot needs of the framework; losses and validation are `HostBackend`'s."""

    def __init__(self, optimizer: Momentum, validate: Callable[[], float] | None) -> None:
        self._optimizer = optimizer
        self._base_lrs = list(optimizer.lrs)
        first = self._base_lrs[0]
        if first <= 0:
            raise ConfigError(f"optimizer: its first LR must be positive, not {first}: the others follow it")
        self._snapshot: tuple[list[Array], list[float], RandomState] | None = None
        super().__init__(None if validate is None else Validator(validate))

    @property
    def base_lrs(self) -> list[float]:
        return self._base_lrs

    def lrs(self) -> list[float]:
        return list(self._optimizer.lrs)

    def set_lr(self, lr: float) -> None:
        self._optimizer.lrs = [lr * (base / self._base_lrs[0]) for base in self._base_lrs]

    def take(self, data: Sequence[object] = ()) -> None:
        self._snapshot = [array.copy() for array in self._arrays], self.lrs(), RandomState.capture()

    def restore(self, *, committed: bool = False) -> None:
        if self._snapshot is None:
            raise RuntimeError("snapshot: restore() before take()")
        copies, lrs, random_state = self._snapshot
        for array, copy in zip(self._arrays, copies, strict=True):
            array[...] = copy
        self._optimizer.lrs = list(lrs)
        random_state.restore()

    def state_dict(self) -> dict[str, Any] | None:
        if self._snapshot is None:
            return None
        copies, lrs, random_state = self._snapshot
        return {"arrays": copies, "lrs": lrs, "random_state": random_state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if [array.shape for array in state["arrays"]] != [array.shape for array in self._arrays]:
            raise ConfigError("state: it is of a model with other arrays")
        random_state = RandomState.from_state_dict(state["random_state"])
        self._snapshot = list(state["arrays"]), list(state["lrs"]), random_state

    def close(self) -> None:
        self._snapshot = None

    @property
    def _arrays(self) -> list[Array]:
        """All that a step changes, besides the random state."""
        return [*self._optimizer.arrays, *self._optimizer.velocities]


class NumpyTuner(Driver):
    """What users of the framework import."""

    def __init__(
        self, optimizer: Momentum, *, validate: Callable[[], float] | None = None, **job: Unpack[JobOptions]
    ) -> None:
        super().__init__(NumpyBackend(optimizer, validate), **job)


digits = load_digits()
inputs, targets = digits.data / 16, digits.target


class Shuffled:
    """Batches of the training images, in another order every epoch, from NumPy's global generator."""

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        for rows in np.random.permutation(1400)[:1344].reshape(-1, 64):
            yield inputs[rows], targets[rows]


def train(model: Softmax, **job: Unpack[JobOptions]) -> NumpyTuner:
    """A training loop: the LR of the bias is twice that of the weights, whatever that is."""
    optimizer = Momentum([model.weights, model.bias], [0.001, 0.002])
    with NumpyTuner(optimizer, validate=lambda: model.loss(inputs[1400:], targets[1400:]), **job) as tuner:
        for batch in tuner.batches(Shuffled()):
            loss = model.loss(*batch)
            optimizer.update(model.gradients(*batch))
            tuner.step(loss)
    return tuner


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    np.random.seed(0)
    model = Softmax(64, 10)
    tuner = train(model, total_steps=1000, lr_bounds=(1e-4, 1.0), name="numpy-digits")
    print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps")
    print(f"tuned: validation loss {model.loss(inputs[1400:], targets[1400:]):.4f}")
