"""Where a run is, when it asks what comes next."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class RunState:
    """Where a run is: what its next directive must fit, and what a schedule without the server would begin with."""

    lr: float
    remaining: int | None
    """Steps that may still be run; None: there is no end."""
    warm: bool
    """Whether there are committed steps, so that the LR need not rise from zero."""
    held: bool = True
    """Whether there is a snapshot to go back to."""
