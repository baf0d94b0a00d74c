"""The standing of a job: the losses of the steps that are in its model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
from lrpilot.wire.profile import Profile

from tuner_server.core.job.loss_course import LossCourse
from tuner_server.core.messages import LOSS_WINDOW, Report, Value, Weights


class Standing(Value):
    """What the committed steps came to, however they were reported and whatever was rolled back between them."""

    recent_losses: tuple[float, ...] = ()
    """The losses of the last `LOSS_WINDOW` committed steps."""
    last_loss: float | None = None
    """The mean of `recent_losses`."""
    best_loss: float | None = None
    """The lowest mean of `LOSS_WINDOW` committed steps in a row; None before there are so many."""
    best_since_change: float | None = None
    """As `best_loss`, of the steps since the plan of the run changed last."""
    since_change: int = 0
    """How many these steps are, as far as it matters: of more than `LOSS_WINDOW` any number."""
    last_validation: float | None = None
    best_validation: float | None = None
    peak_lr: float | None = None
    """The highest LR of the committed steps."""
    present_lr: float | None = None
    """The LR of the step after the last committed one, as its profile has it; None before the first."""
    course: LossCourse | None = None
    """The validations so far, by which the run may be stopped; None: it may not, or its end is decided."""

    @classmethod
    def of(cls, other: Standing) -> Self:
        """The standing in something that has one, and more."""
        return cls(**{name: getattr(other, name) for name in cls.model_fields})

    def after(self, report: Report, profile: Profile | None) -> Standing:
        """The standing once the steps of a report, which had such LRs, are committed."""
        losses = self.recent_losses + report.losses
        recent = losses[-LOSS_WINDOW:]
        since = min(self.since_change + report.n_steps, len(losses))
        ever, lately = _lowest_windows(losses, since)
        validations = [v.loss for v in report.validations if math.isfinite(v.loss)]
        ending = report.ending
        if ending is not None and ending.adopted is Weights.AVERAGE and ending.average is not None:
            validations.append(ending.average)
        return Standing(
            recent_losses=recent,
            last_loss=_mean(recent) if recent else None,
            best_loss=_lowest(self.best_loss, *ever),
            best_since_change=_lowest(self.best_since_change, *lately),
            since_change=min(since, LOSS_WINDOW),
            last_validation=validations[-1] if validations else self.last_validation,
            best_validation=_lowest(self.best_validation, *validations),
            peak_lr=_highest(self.peak_lr, None if profile is None else profile.highest_lr(report.n_steps)),
            present_lr=self.present_lr if profile is None or not report.losses else profile.lr(report.n_steps),
            course=None if self.course is None else self.course.after(report, profile),
        )


def _mean(losses: Sequence[float]) -> float:
    return math.fsum(losses) / len(losses)


def _lowest_windows(losses: Sequence[float], n_last: int) -> tuple[list[float], list[float]]:
    """The lowest mean of `LOSS_WINDOW` losses in a row: of all, and of the last so many. None where there are fewer."""
    n_windows = len(losses) - LOSS_WINDOW + 1
    if n_windows <= 0:
        return [], []
    array = np.array(losses)
    sums = array[:n_windows].copy()
    for i in range(1, LOSS_WINDOW):
        sums += array[i : i + n_windows]

    def lowest(first: int) -> list[float]:
        if first >= n_windows:
            return []
        start = first + int(sums[first:].argmin())
        return [_mean(losses[start : start + LOSS_WINDOW])]

    ever = lowest(0)
    return ever, ever if n_last == len(losses) else lowest(len(losses) - n_last)


def _lowest(known: float | None, *found: float) -> float | None:
    return min(found if known is None else (known, *found), default=None)


def _highest(*found: float | None) -> float | None:
    return max((value for value in found if value is not None), default=None)
