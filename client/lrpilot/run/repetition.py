"""The proof, on every run, that probes leave no trace: all of a search begin alike.

The first loss of a probe is computed before any update, on the same batch, from the same state and random numbers as
that of the first probe. If it is another one, something that training changes was not put back.
"""

from __future__ import annotations

import math

MOST_NAMED = 3
"""Things that may be the cause, in one sentence."""


class Repetition:
    """Compares the first losses of a search."""

    def __init__(self, first_loss: float | None = None, n_batches: int = 0) -> None:
        """Starts a search; in a run that is resumed, with what its first probe began with."""
        self.first_loss = first_loss
        self.n_batches = n_batches
        """How many batches the first step of the first probe had."""
        self.comparable = False
        """Whether the present probe begins like the first one, as far as the data go."""
        self.drawn = 0
        """How many batches were drawn for its first step until now."""

    def begin(self, comparable: bool) -> None:
        """A probe begins, or other steps, which are not comparable."""
        self.comparable, self.drawn = comparable, 0

    def differs(self, loss: float, noise: float) -> bool:
        """Whether a probe began otherwise than the first. The first one is only taken note of.

        A loop may leave out a step, throw a batch away or make several steps of one. Then the first step of a probe is
        not on the batch that the other's was, which the number of batches until then tells.

        Args:
            loss: its first loss.
            noise: the relative difference that rounding makes on the run's device.
        """
        if self.first_loss is None:
            self.first_loss, self.n_batches = loss, self.drawn
            return False
        if self.drawn == 0 or self.drawn != self.n_batches:  # 0: the loop went on with an older batch
            return False
        if loss == self.first_loss or (math.isnan(loss) and math.isnan(self.first_loss)):
            return False
        return not math.isclose(loss, self.first_loss, rel_tol=noise)

    def sentence(self, loss: float, suspects: list[str]) -> str:
        """What was seen, and what it may be.

        Args:
            loss: the first loss of the probe that began otherwise.
            suspects: names of what may change and can't be put back.
        """
        named = ", ".join(suspects[:MOST_NAMED])
        cause = f"{named}, or " if named else ""
        return (
            f"a probe began with a loss of {loss:.7g} where the first one had {self.first_loss:.7g}, from the same "
            f"state, batch and random numbers: something that training changes was not put back. It may be {cause}a "
            "variable of the loop, of a class or of a closure (lrpilot.check_rollback looks for it, and register= puts "
            "it back), or the loss is one from after the update"
        )
