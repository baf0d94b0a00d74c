"""What a run has reached by itself, and holds on to while its LR is near the peak.

A search of a few steps may like an LR at which a run learns while it warms up, loses that again near the peak, and
settles on a level that its probes did not get below either: with very small batches, or a momentum that remembers more
steps than a probe has. What such a run has come to itself says so; what its probes promised does not.

Notation: s, the loss before the first step; b, the lowest median of a stretch of committed losses since the LR began to
rise; e, its standard error. The median loss of a report must not be above the bar

    b  +  SHARE (s - b)  +  ERRORS e

All of it moves with a shift of the losses, and scales with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tuner_server.core.evidence.divergence import medians, scatter
from tuner_server.core.messages import Bar, Setback, Value

SHARE = 0.1
"""This part of what a run had gained may be lost again. How near sound runs come to it was measured:
docs/decisions/0027-a-run-keeps-what-it-has-reached.md."""
ERRORS = 4.0
"""Standard errors of b: it is the lowest of several medians, and so lies below what the run had come to."""
STRETCHES = 4
"""Into so many stretches a report is cut, if they are long enough: what a warm-up reaches on its way is not averaged
away."""
FEWEST = 25
"""Losses of a stretch: of fewer a median says too little."""
LAST_LOOK = 0.15
"""Reports that begin after this part of a run's committed steps are not held to it: the LR has been near its peak for
long by then, and what it destroys is destroyed. A loss that rises later says that the data have changed
(`evidence.shift`)."""
NOT_THE_LR = 2 / 3
"""At a lower LR a run rises to the same level, if it loses so much of what it lost before: then the loss itself, or the
data, became harder, and the LR is not the cause."""
LARGEST = 1e300
"""Losses beyond this say nothing: their differences may be no floats."""
MEDIAN_ERROR = math.sqrt(math.pi / 2.0)
"""The standard error of the median of n normal draws is so many times that of their mean."""


class Reached(Value):
    """The lowest level that a run had for a stretch."""

    loss: float
    """b"""
    error: float
    """e"""


def after(known: Reached | None, losses: Sequence[float]) -> Reached | None:
    """What is reached once more losses are committed; None: there was no stretch that is long enough.

    Args:
        known: before them.
        losses: of a report. Those beyond `LARGEST` are left out.
    """
    values = np.asarray(losses, dtype=np.float64)
    values = values[np.abs(values) <= LARGEST]
    n_stretches = min(len(values) // FEWEST, STRETCHES)
    if not n_stretches:
        return known
    length = len(values) // n_stretches
    error = MEDIAN_ERROR * scatter(values) / math.sqrt(length)
    lowest = float(medians(values[: n_stretches * length].reshape(n_stretches, length)).min())
    return Reached(loss=lowest, error=error) if known is None or lowest < known.loss else known


def held_to(promise: Sequence[Bar], reached: Reached, start: float, until: int) -> tuple[Bar, ...]:
    """The bars of committed steps that must keep what they have reached, too.

    Args:
        promise: their bars so far, `promise.bars` or these with what was reached before.
        reached: b and e.
        start: s.
        until: from this step of the directive on the bars are what they were.
    """
    if reached.loss >= start:
        return tuple(promise)  # nothing was gained
    loss = reached.loss + SHARE * (start - reached.loss) + ERRORS * reached.error
    early = [bar for bar in promise if bar.from_step < until]
    late = [bar for bar in promise if bar.from_step >= until]
    if early and (not late or late[0].from_step > until):
        late.insert(0, early[-1].model_copy(update={"from_step": until}))
    own = {"loss": loss, "reached": reached.loss}
    return (*(bar.model_copy(update=own) if loss < bar.loss else bar for bar in early), *late)


def as_much(setback: Setback, earlier: Setback) -> bool:
    """Whether a run rose at a lower LR as far as it had risen at a higher one, so that the LR is not the cause.

    Args:
        setback: at the lower LR.
        earlier: the one before, at which the run had lost what it had reached.
    """
    if setback.reached is None or setback.loss is None:
        return False
    assert earlier.reached is not None
    assert earlier.loss is not None
    return setback.loss - earlier.reached >= NOT_THE_LR * (earlier.loss - earlier.reached)
