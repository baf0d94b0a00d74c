"""A small training run, whatever framework it is in: what the contract suite of backends is run on."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
from lrpilot.backends.base import Backend
from lrpilot.integrations import state_bytes

N_ROWS, N_FEATURES = 6, 4
WIDTH = 5
"""The width of the hidden layer, or of the output where there is none."""

Validate = Callable[["SmallRun"], float]
"""Gives the validation loss of a run."""


class SmallRun(abc.ABC):
    """A model, an optimizer with state of its own, and the backend that has them in hand.

    Two runs of one class are alike bit for bit: weights are made from a fixed seed, batches from their number, and each
    batch gets noise from NumPy's global generator, which a rollback puts back.
    """

    backend: Backend
    base_lrs: tuple[float, ...]
    """The LRs that the optimizer is made with, one for each of its groups."""
    follows_data = False
    """Whether the backend rolls back parts of the data that it is given."""

    @abc.abstractmethod
    def update(self, batch: np.ndarray[Any, Any]) -> Any:
        """Makes one update on a batch; gives its loss as the framework does, on its device."""

    @abc.abstractmethod
    def bits(self) -> list[bytes]:
        """All that a step changes, and the modes of the model: weights, statistics, the optimizer's state."""

    @abc.abstractmethod
    def evaluate(self) -> float:
        """A validation as a user writes it, which leaves what the framework leaves."""

    @abc.abstractmethod
    def scalar(self, value: float) -> Any:
        """A loss of that value, as the framework gives it."""

    @abc.abstractmethod
    def array(self, n: int) -> Any:
        """An array of so many zeros: a loss if it is one, and else none."""

    @abc.abstractmethod
    def save(self) -> Any:
        """The user's own checkpoint: model and optimizer, copied."""

    @abc.abstractmethod
    def load(self, saved: Any) -> None:
        """Loads a checkpoint of the user's own."""

    def through_a_file(self, state: Any) -> Any:
        """A backend's state as it is after it was saved and loaded, without pickle."""
        return state_bytes.loads(state_bytes.dumps(state))

    def step(self, number: int) -> Any:
        """Makes one update on the batch of that number; its loss."""
        batch = np.random.default_rng(number).normal(size=(N_ROWS, N_FEATURES))
        return self.update((batch + 0.1 * np.random.normal(size=batch.shape)).astype(np.float32))
