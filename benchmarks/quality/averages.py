"""Averages of a run's weights, to be judged in place of the last ones."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


@contextmanager
def held(model: nn.Module, other: nn.Module) -> Iterator[None]:
    """The model holds the weights of another one while this context is open."""
    own = copy.deepcopy(model.state_dict())
    model.load_state_dict(other.state_dict())
    yield
    model.load_state_dict(own)


class PolynomialAverage:
    """Polynomial decay averaging (Shamir & Zhang 2013), with the gamma of 8 that DoG recommends.

    The average of step t, from 1, is moved towards the model by (1 + gamma) / (t + gamma) of the way. Running
    statistics of batch normalisation are averaged as the weights are.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, gamma: float = 8.0) -> None:
        """Averages `model` after every step of `optimizer`."""

        def moved(average: Tensor, value: Tensor, n_averaged: Tensor | int) -> Tensor:
            if not value.is_floating_point():
                return value  # a counter
            return average.lerp(value, (1 + gamma) / (int(n_averaged) + 1 + gamma))

        self._model = model
        self._averaged = AveragedModel(model, avg_fn=moved, use_buffers=True)
        optimizer.register_step_post_hook(lambda *_: self._averaged.update_parameters(model))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average while this context is open."""
        with held(self._model, self._averaged.module):
            yield


class ExponentialAverage:
    """An exponential average of weights and running statistics, as policy `budget` ends with one.

    After every `every` steps it is moved towards the model by 1 - exp(-every / memory) of the way.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, memory: float, every: int = 5) -> None:
        """Averages `model`; `memory` is in steps of `optimizer`."""
        rate, steps = 1.0 - math.exp(-every / memory), itertools.count(1)

        def moved(average: Tensor, value: Tensor, _n_averaged: Tensor | int) -> Tensor:
            return average.lerp(value, rate) if value.is_floating_point() else value

        self._model = model
        self._averaged = AveragedModel(model, avg_fn=moved, use_buffers=True)
        self._averaged.update_parameters(model)  # the first one copies

        def step(*_: object) -> None:
            if next(steps) % every == 0:
                self._averaged.update_parameters(model)

        optimizer.register_step_post_hook(step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average while this context is open."""
        with held(self._model, self._averaged.module):
            yield
