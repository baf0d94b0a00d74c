"""The state of a run when it asks what comes next."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class RunState:
    """Where a run is: what its next directive must fit, and what a schedule without the server would begin with."""

    lr: float
    """The LR that the run is at."""
    remaining: int | None
    """Steps that may still be run; None: there is no end."""
    warm: bool
    """Whether there are committed steps, so that the LR need not rise from zero."""
    held: bool = True
    """Whether there is a snapshot to go back to."""
    steps: int = 0
    """Steps that were run, search included."""
    peak: float = 0.0
    """The highest LR of the committed steps; 0 before the first."""
    in_time: int | None = None
    """How many more steps the time of the run suffices for, at its pace so far; None: it does not end by time, an end
    in steps is known, or no pace is."""

    @property
    def steps_left(self) -> int | None:
        """How many steps a schedule without the server has: those that are left, or that the time suffices for."""
        return self.in_time if self.remaining is None else self.remaining

    def planned(self, total_steps: int | None) -> RunState:
        """This place in a run that ends after so many steps; None: no end is known."""
        remaining = None if total_steps is None else max(total_steps - self.steps, 0)
        return dataclasses.replace(self, remaining=remaining)
