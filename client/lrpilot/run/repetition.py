"""The proof, on every run, that probes leave no trace: all of a search begin alike.

The first loss of a probe is computed before any update, on the same batch, from the same state and random numbers as
that of the first probe. If it is another one, something that training changes was not put back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MOST_NAMED = 3
"""The most things that one sentence names as the cause."""


class Repetition:
    """Compares the first losses of a search."""

    def __init__(self) -> None:
        """Starts a search."""
        self._first_loss: float | None = None
        # How many batches the first step of the first probe had.
        self._n_batches = 0
        self._comparable = False
        # How many batches were drawn for the first step of the present probe until now.
        self._drawn = 0

    @property
    def comparable(self) -> bool:
        """Whether the present probe begins like the first one, as far as the data go, and its losses are known."""
        return self._comparable

    def begin(self, comparable: bool) -> None:
        """A probe begins, or other steps, which are not comparable."""
        self._comparable, self._drawn = comparable, 0

    def forget(self) -> None:
        """The probes that were compared until now were on other batches than those that follow."""
        self._first_loss = None

    def draw(self) -> None:
        """One more batch was drawn for the first step."""
        self._drawn += 1

    def lose(self) -> None:
        """Losses of the present steps are lost, so that the first one may be of a later step: none is compared."""
        self._comparable = False

    def differs(self, loss: float, noise: float) -> bool:
        """Whether a probe began otherwise than the first. The first one is only taken note of.

        A loop may leave out a step, throw a batch away or make several steps of one. Then the first step of a probe is
        not on the batch that the other's was, which the number of batches until then tells.

        Args:
            loss: its first loss.
            noise: the relative difference that rounding makes on the run's device.
        """
        if self._first_loss is None:
            self._first_loss, self._n_batches = loss, self._drawn
            return False
        if self._drawn == 0 or self._drawn != self._n_batches:  # 0: the loop went on with an older batch
            return False
        if loss == self._first_loss or (math.isnan(loss) and math.isnan(self._first_loss)):
            return False
        return not math.isclose(loss, self._first_loss, rel_tol=noise)

    def sentence(self, loss: float, suspects: list[str]) -> str:
        """What was seen, and what it may be.

        Args:
            loss: the first loss of the probe that began otherwise.
            suspects: names of what may change and can't be put back.
        """
        named = ", ".join(suspects[:MOST_NAMED])
        cause = f"{named}, or " if named else ""
        return (
            f"a probe began with a loss of {loss:.7g} where the first one had {self._first_loss:.7g}, from the same "
            f"state, batch and random numbers: something that training changes was not put back. It may be {cause}a "
            "variable of the loop, a class or a closure (lrpilot.check_rollback looks for it, register= puts it back), "
            "or the loss was taken after the update"
        )

    def state_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "first_loss": self._first_loss,
            "n_batches": self._n_batches,
            "comparable": self._comparable,
            "drawn": self._drawn,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Repetition:
        """What `state_dict` gave."""
        repetition = cls()
        repetition._first_loss, repetition._n_batches = state["first_loss"], state["n_batches"]
        repetition._comparable, repetition._drawn = state["comparable"], state["drawn"]
        return repetition
