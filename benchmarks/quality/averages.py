"""Averages of a run's weights, to be judged in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class PolynomialAverage:
    """Polynomial decay averaging (Shamir & Zhang 2013), with the gamma of 8 that DoG recommends.

    The average of step t, from 1, is moved towards the model by (1 + gamma) / (t + gamma) of the way. Running
    statistics of batch normalisation are averaged as the weights are.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, gamma: float = 8.0) -> None:
        """Averages `model` after every step of `optimizer`."""
        self._model = model
        self._gamma = gamma
        self._n_steps = 0
        self._average = [value.clone() for value in self._values()]
        optimizer.register_step_post_hook(lambda *_: self._step())

    def _values(self) -> list[Tensor]:
        return [value for value in self._model.state_dict().values() if value.is_floating_point()]

    def _step(self) -> None:
        self._n_steps += 1
        share = (1 + self._gamma) / (self._n_steps + self._gamma)
        for average, value in zip(self._average, self._values(), strict=True):
            average.lerp_(value, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average while this context is open."""
        own = [value.clone() for value in self._values()]
        self._put(self._average)
        yield
        self._put(own)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for value, new in zip(self._values(), values, strict=True):
                value.copy_(new)
