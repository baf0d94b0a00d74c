"""Whether the losses of committed steps say that the data have changed, and nobody has said so.

Past its peak, a run that has been sound does not lose most of what it had gained from one report to the next, unless it
is trained on something else. That is judged by a whole report, so that no bad batch, and no hump, is taken for it.

Notation: b, the lowest mean loss before the report; s, the loss that training began with; sd, how far the losses of
single steps scatter; m, the median of a quarter of the report's losses. There is a shift if for all quarters

    m - b  >  max(SHARE (s - b), SPREADS sd)

Everything moves with a shift of the losses, and scales with them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from tuner_server.core.evidence.divergence import scatter
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.messages import ChangeKind, PlanChange, Report

SHARE = 0.3
"""This part of all that was gained is lost. In 1,500 reports of sound runs on thirteen workloads it was 0.22 at most,
but for batches of four, whose losses scatter so much that the other limit is the higher one."""
SPREADS = 3.0
"""The loss has risen by so many standard deviations of a step's; b, the lowest of many, lies one below the level."""
QUARTERS = 4
SETTLED = 0.1
"""After this part of the committed steps losses say what the run is like."""
FEWEST = 10
"""Losses of a quarter: of fewer a median says too little."""


def shifted(losses: Sequence[float], best: float, start: float) -> float | None:
    """The lowest of the quarters' medians, if it says that the data have changed; else None.

    Args:
        losses: of a report, finite.
        best: b.
        start: s.
    """
    length = len(losses) // QUARTERS
    if length < FEWEST:
        return None
    lowest = min(statistics.median(losses[i * length : (i + 1) * length]) for i in range(QUARTERS))
    sd = scatter(np.asarray(losses))
    return lowest if lowest - best > max(SHARE * (start - best), SPREADS * sd) and start > best else None


def noticed(lessons: Lessons, report: Report, best: float | None, first_loss: float | None) -> PlanChange | None:
    """The change of the plan that a report asks for, if its losses say that the data have changed.

    Args:
        lessons: what the probes taught: training began where they did.
        report: on committed steps.
        best: b; None: there are too few losses before the report.
        first_loss: the run's first one, where the probes have taught nothing; None: not known.
    """
    start = first_loss if lessons.footing is None else lessons.footing.start_loss
    level = None if best is None or start is None else shifted(report.losses, best, start)
    if level is None:
        return None
    reason = f"over {report.n_steps} steps the loss stayed at {level:.4g} or above, after {best:.4g} at best"
    return PlanChange(kind=ChangeKind.REPLAN, reason=reason)
