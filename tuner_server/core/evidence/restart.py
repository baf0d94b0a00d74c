"""What follows on committed steps that are rolled back, since they diverged or fell short.

They begin anew at a much lower LR, which is a ceiling from then on: no LR above it is committed, unless a search that
began after the setback has found it sound. Each of these restarts is counted: after some the level of divergence is in
doubt, and after more than that the LR is not the cause.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from tuner_server.core.errors import DivergenceError
from tuner_server.core.evidence import promise
from tuner_server.core.evidence.promise import Footing
from tuner_server.core.messages import Directive, Outcome, Report, Setback

RETREAT = math.sqrt(10.0)
"""What the LR that failed is divided by."""
TRUSTED_RESTARTS = 3
"""After so many restarts the level itself is in doubt, since each was at a much lower LR: it counts no more."""
MAX_RESTARTS = 10
"""A run that still diverges at an LR that was lowered so often does not diverge because of the LR."""

MAX_BEGINNINGS = 3
"""A run whose loss before any update is not finite, so many times, does not diverge because of the LR either. One might
be a chance of the hardware."""


def check_beginnings(n_reports: int) -> None:
    """Looks at a run none of whose reports began with a finite loss. Raises: DivergenceError: they are enough."""
    if n_reports >= MAX_BEGINNINGS:
        raise DivergenceError(
            f"none of {n_reports} reports begins with a finite loss, and nothing was updated before: the LR is not the "
            "cause; look for what is not finite in the data, the model or the loss"
        )


def counted(restarts: int) -> int:
    """One restart more than before. Raises: DivergenceError: it is one too many, and the run can't be helped."""
    restarts += 1
    if restarts > MAX_RESTARTS:
        raise DivergenceError(
            f"committed steps diverged {restarts} times, each time at a much lower LR: the LR is not the cause; "
            "look for what is not finite in the data or the model"
        )
    return restarts


def doubt(restarts: int) -> str:
    """What to add to the reason of committed steps; nothing as long as the level counts."""
    if restarts < TRUSTED_RESTARTS:
        return ""
    return f"; after {restarts} divergences only NaN or infinity counts as one"


class Allowed(NamedTuple):
    """An LR that may be committed after what was rolled back."""

    lr: float
    lowered_by: float | None
    """What the LR that was wanted is divided by; None: it is that one."""

    @property
    def note(self) -> str:
        """What to add to the reason of committed steps; nothing where the LR is the one that was wanted."""
        if self.lowered_by is None:
            return ""
        return f", divided by {self.lowered_by:.3g} since committed steps were rolled back"


def lr_after_setbacks(wanted: float, ceiling: float | None) -> Allowed:
    """The LR that is committed where `wanted` comes from before the setbacks, or from nothing that was tried.

    Args:
        wanted: The LR that would be committed if no steps had been rolled back.
        ceiling: `Lessons.ceiling`; None: no steps were.
    """
    if ceiling is None or wanted <= ceiling:
        return Allowed(wanted, None)
    return Allowed(ceiling, wanted / ceiling)


def setback(directive: Directive, report: Report, begin: int, footing: Footing | None = None) -> Setback:
    """The evidence against committed steps that are rolled back.

    Args:
        directive: as it was issued.
        report: the last one on it.
        begin: the step of the directive with which that report begins.
        footing: what the search saw, where the bars of the directive are `promise.bars` of it; None: its promise is one
            bar, for training losses.
    """
    assert directive.profile is not None
    lr = directive.profile.peak
    if report.outcome is not Outcome.FELL_SHORT:
        return Setback(lr=lr)
    if footing is None:
        return Setback(lr=lr, loss=statistics.median(report.losses), bar=directive.promise[0].loss)
    return promise.fell_short(footing, lr, directive.promise, begin, report)
