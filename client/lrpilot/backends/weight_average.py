"""What a run needs of a framework to end with an average of its weights."""

from __future__ import annotations

import abc
from typing import Any


class WeightAverage(abc.ABC):
    """An exponential average of what is trained: of parameters, and of state that follows them, such as statistics.

    The backend itself brings it up to date as losses are appended, with no device synchronisation. What it can't keep
    any more it lets go of, with a warning: training goes on.
    """

    @property
    @abc.abstractmethod
    def active(self) -> bool:
        """Whether there is an average."""

    @property
    @abc.abstractmethod
    def adopted(self) -> bool:
        """Whether the model holds the average, and its own last weights are kept beside it."""

    @abc.abstractmethod
    def begin(self, memory_steps: float, every: int) -> None:
        """Begins an average with the present weights, in place of one that there is.

        Args:
            memory_steps: after so many steps a change of the weights is in it but for a part of 1/e.
            every: it is brought up to date after so many steps.

        Raises:
            Exception: what the framework raises where there is no room; there is no average then.
        """

    @abc.abstractmethod
    def adopt(self) -> None:
        """Puts the average into the model, in place; the optimizer's state stays. May be repeated.

        Raises:
            RuntimeError: there is no average.
            Exception: what the framework raises where there is no room; the model is as it was.
        """

    @abc.abstractmethod
    def undo(self) -> None:
        """Puts the last weights back, bit for bit, if the model holds the average; the average stays."""

    @abc.abstractmethod
    def end(self) -> None:
        """Forgets the average, and the last weights if the model holds the average. The model stays as it is."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """The average for a checkpoint, and the last weights if the model holds the average; None: there is none."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Goes on with what another one's `state_dict` gave. The model stays as it is.

        Raises:
            ConfigError: the state is of another model.
        """
