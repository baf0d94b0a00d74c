"""When a loss is too high to go on.

A divergence ends a probe early, so the level must be one that a sound run does not touch: noise of a mini-batch, or the
hump after a large LR on fresh weights, is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tuner_server.core.messages import Report


def give_up_level(references: Iterable[float | None], factor: float) -> float | None:
    """The loss above which a probe has diverged.

    Args:
        references: losses that are sound: the stage's start, the untrained model's. None: not known yet.
        factor: how many times the highest of them is too much; of a negative loss, its distance from zero counts.

    Returns:
        The level; None when nothing is known: only a loss that is not finite is a divergence then.
    """
    known = [loss for loss in references if loss is not None]
    if not known:
        return None
    highest = max(known)
    return highest + (factor - 1.0) * abs(highest)


def level_reached(report: Report, start_loss: float | None) -> float:
    """What the loss of a probe that diverged is known to have reached: a censored observation's level."""
    known = [loss for loss in report.losses if math.isfinite(loss)]
    if start_loss is not None:
        known.append(start_loss)
    return max(known, default=0.0)
