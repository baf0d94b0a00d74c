"""What a measure is to the collector: a scalar on the device for each update, and one for those of a step together."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch

from lrpilot.backends.torch.measures.direction import Direction
from lrpilot.backends.torch.measures.gradients import Gradients


class Measure(abc.ABC):
    """A number for every step. All that it computes stays on the device, and waits for nothing."""

    name: ClassVar[str]
    """What policies ask for it by."""

    @abc.abstractmethod
    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The value of a step, from those of its updates, which are on one device; there is at least one."""


class GradientMeasure(Measure):
    """What gradients alone tell."""

    @abc.abstractmethod
    def take(self, gradients: Gradients) -> torch.Tensor:
        """The value of an update, from the gradients that the optimizer is about to use."""


class DirectionMeasure(Measure):
    """What gradients tell of the update before."""

    @abc.abstractmethod
    def take(self, gradients: Gradients, direction: Direction) -> torch.Tensor:
        """The value of an update, from its gradients and the direction of the update before."""


class UpdateMeasure(Measure):
    """What an update tells once it is made."""

    @abc.abstractmethod
    def take(self, direction: Direction) -> torch.Tensor:
        """The value of an update, from its own direction."""


def norm_of(norms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The L2 norm of all, from the norms of parts."""
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(list(norms)))


def sum_of(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of scalars."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()
