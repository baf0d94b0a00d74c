"""The LR that a run is at: the tuner sets it, and looks whether something else does too."""

from __future__ import annotations

import logging
import math

from lrpilot.backends.base import Backend
from lrpilot.run.coasting import attempt

TOLERANCE = 0.01
"""The relative difference below which two LRs are one: a tensor LR may be of half precision."""

log = logging.getLogger("lrpilot")


class TunedLr:
    """Sets the LR of a backend, and says once if that fails or if it was set by something else."""

    def __init__(self, backend: Backend) -> None:
        """Sets nothing yet: the run is at the LR that the user set."""
        self._backend = backend
        self._complained = False
        self.now = backend.base_lrs[0]
        """The first group's LR, of the next step, as the tuner set it."""

    def set(self, lr: float, *, begun: bool) -> None:
        """Sets the LR of the next step; `begun`: the run has made steps, and is not ended by what goes wrong.

        Raises:
            Exception: the LR can't be set, and nothing has begun: there is an argument to change.
        """
        try:
            self._backend.set_lr(lr)
        except Exception as error:
            if not begun:
                raise
            self._complain("the LR can't be set, and stays: %s: %s", type(error).__name__, error)
            return
        self.now = lr

    def look(self) -> None:
        """Says, once, that something else sets the LR too."""
        lrs = attempt(self._backend.lrs)
        if lrs and not math.isclose(lrs[0], self.now, rel_tol=TOLERANCE):
            self._complain(
                "the LR is %.6g where the tuner had set %.6g: something else sets it too; take out the "
                "scheduler, callback or assignment that does, since the tuner warms up and decays by itself",
                lrs[0],
                self.now,
            )

    def _complain(self, message: str, *arguments: object) -> None:
        if not self._complained:
            self._complained = True
            log.warning(f"lrpilot: {message}", *arguments)
