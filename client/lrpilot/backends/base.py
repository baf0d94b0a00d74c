"""What a driver needs of a framework: learning rates, losses, and a state that can be put back."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HOST_NOISE = 1e-5
"""Kernels of a CPU add in an order that may depend on where an array lies."""
DEVICE_NOISE = 2e-3
"""Those of a GPU may add in any order, in half precision too."""


class Backend(abc.ABC):
    """One training run in a framework's hands."""

    @property
    @abc.abstractmethod
    def base_lrs(self) -> list[float]:
        """The LRs of all groups as the user set them. What is tuned is the first; the others keep their ratio to it."""

    @property
    @abc.abstractmethod
    def has_validation(self) -> bool:
        """Whether `validate` can be asked for a loss."""

    @property
    def loss_noise(self) -> float:
        """The relative difference that rounding makes between two evaluations of one loss, at most."""
        return HOST_NOISE

    @property
    def loss_precedes_updates(self) -> bool:
        """Whether the loss of a step is from before all of its updates, so that it does not depend on the LR."""
        return True

    def suspects(self) -> list[str]:
        """Names of what may change and can't be put back."""
        return []

    @abc.abstractmethod
    def lrs(self) -> list[float]:
        """The LR of every group, now."""

    @abc.abstractmethod
    def set_lr(self, lr: float) -> None:
        """Gives the first group this LR, and the others their share of it."""

    @abc.abstractmethod
    def take(self, data: Sequence[object] = ()) -> None:
        """Remembers the present, in place of what was remembered before.

        Args:
            data: parts of the data that the loop may change, which go back with a probe.
        """

    @abc.abstractmethod
    def restore(self, *, committed: bool = False) -> None:
        """Goes back to what was remembered, as often as one likes. LRs go back too.

        Args:
            committed: whether the steps that are rolled back were to stay, so that a change of structure that the loop
                made in them (a layer unfrozen, a group added) will not be made again.
        """

    @abc.abstractmethod
    def validate(self) -> float | None:
        """The validation loss, and no trace of having asked; None if it shows a divergence."""

    @abc.abstractmethod
    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """Makes room for the losses of so many steps, which follow on `earlier` ones; a loss above `limit` diverges."""

    @abc.abstractmethod
    def append(self, loss: Any) -> bool:
        """Adds the loss of a step, with no device synchronisation; false if there was none: its update was skipped.

        Raises:
            ValueError: the loss is not one number.
        """

    @abc.abstractmethod
    def diverged(self) -> bool:
        """Whether a loss since `begin` or `flush` is not finite or above the limit; may look behind by one call."""

    @abc.abstractmethod
    def peek(self) -> list[float]:
        """The losses since `begin` or `flush`, oldest first."""

    @abc.abstractmethod
    def flush(self) -> list[float]:
        """Gives what `peek` gives, and forgets it."""

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be measured at every step besides the loss, by the names that policies ask for.

        All are norms: over several ranks their quadratic mean is taken. A rank that holds a part of something gives the
        norm that the whole would have if the others' parts were like its own.
        """
        return ()

    def measure(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:  # noqa: B027 - most can't
        """From now on takes some measures, and no others, at every step whose loss is added.

        Args:
            n_steps: how many steps come between two calls of `flush_measures`.
            earlier: the measures, by name, each with its values for the losses that `begin` was given.
        """

    def peek_measures(self) -> dict[str, list[float]]:
        """By name, the values since `measure` or `flush_measures`, oldest first; of no measure that can't be taken."""
        return {}

    def flush_measures(self, n_steps: int) -> dict[str, list[float]]:
        """As `peek_measures`, of the last `n_steps` steps, and forgets them; NaN for a step that has no value."""
        return {}

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint; None if nothing is."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Remembers what another one remembered. The present stays as it is."""

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """The budget is spent: no step will follow."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of what `take` holds."""
