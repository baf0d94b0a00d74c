"""The validations of a job's committed steps, and the LRs that led to them. Pure.

It is kept for jobs that have a `stop_when`, and of a bounded size: of a long run every k-th LR is kept, and of many
validations every second of the older ones is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from lrpilot.wire.profile import Profile

from tuner_server.core.laws.lr_path import LrPath
from tuner_server.core.messages import Report, Value

MOST_LRS = 512
MOST_AHEAD = 2**15
"""The most LRs that are computed of further steps: a client may plan for any number of them, and all jobs wait."""
MOST_POINTS = 60
NEWEST_POINTS = 20
"""So many are never left out."""


class Way(NamedTuple):
    """Steps that follow on one another: the first ones of a profile."""

    profile: Profile
    n_steps: int


class Point(Value):
    """A validation."""

    step: int
    """Committed steps before it."""
    loss: float


class LossCourse(Value):
    """The LRs and the validations so far."""

    begins: int = 0
    """The committed step of the run with which it begins."""
    n_steps: int = 0
    """Steps since then."""
    warmup: int = 0
    """The first of them, in which the LR rose from zero."""
    stride: int = 1
    lrs: tuple[float, ...] = ()
    """The LR of every `stride`-th step."""
    points: tuple[Point, ...] = ()

    def after(self, report: Report, profile: Profile | None) -> LossCourse:
        """The course once the steps of a report, which had such LRs, are committed."""
        if profile is None or not report.losses:
            return self
        begin = self.begins + self.n_steps
        found = [
            Point(step=begin + validation.step, loss=validation.loss)
            for validation in report.validations
            if math.isfinite(validation.loss) and self.n_steps + validation.step > 0
        ]
        lrs, stride = [*self.lrs, *self._sampled([Way(profile, report.n_steps)])], self.stride
        while len(lrs) > MOST_LRS:
            lrs, stride = lrs[::2], 2 * stride
        update = {
            "n_steps": self.n_steps + report.n_steps,
            "warmup": self.warmup if self.n_steps else max(profile.warmup - profile.offset, 0),
            "stride": stride,
            "lrs": tuple(lrs),
            "points": _thinned([*self.points, *found]),
        }
        return self.model_copy(update=update)

    @property
    def anew(self) -> LossCourse:
        """The course after a change of the data, the batches or the model: what was seen says nothing of what comes."""
        return LossCourse(begins=self.begins + self.n_steps)

    def path(self, ahead: Iterable[Way] = ()) -> LrPath:
        """The LRs so far, and those of some further steps, in larger strides where these are very many."""
        course, ways = self, list(ahead)
        n_steps = sum(way.n_steps for way in ways)
        while n_steps > MOST_AHEAD * course.stride:
            course = course.model_copy(update={"lrs": course.lrs[::2], "stride": 2 * course.stride})
        lrs = np.array([*course.lrs, *course._sampled(ways)], dtype=np.float64)
        return LrPath(lrs, stride=course.stride, warmup=self.warmup)

    def _sampled(self, ahead: Iterable[Way]) -> list[float]:
        """The LRs of every `stride`-th of some further steps."""
        lrs, begin = [], self.n_steps
        for profile, n_steps in ahead:
            lrs += [profile.lr(step) for step in range(-begin % self.stride, n_steps, self.stride)]
            begin += n_steps
        return lrs


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """No more than the most points: every second of the older ones."""
    if len(points) > MOST_POINTS:
        points = [*itertools.islice(points[:-NEWEST_POINTS], 0, None, 2), *points[-NEWEST_POINTS:]]
    return tuple(points)
