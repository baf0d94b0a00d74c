"""What loggers log: committed steps and search steps, each on an axis of its own.

A step never goes backwards on either axis. Committed steps that a divergence undoes were logged already; they are
not logged again until training has passed them.
"""

from __future__ import annotations

import abc
import dataclasses
import math

from lrpilot.run.observer import Observer, TunedRun
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed, rolls_back
from lrpilot.wire.messages.profiles import profile_from_proto

PREFIX = "lrpilot"
STEP, SEARCH_STEP = f"{PREFIX}/step", f"{PREFIX}/search_step"
"""The names of the two axes."""
EVERY = 10
"""The steps between two points, unless the user says otherwise."""


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """Some values at one step of one axis."""

    axis: str
    step: int
    values: dict[str, float]


class MetricLogger(Observer, abc.ABC):
    """Logs LR, losses and stage of committed steps, the same of probes, and what was forecast of the candidates."""

    def __init__(self, every: int = EVERY) -> None:
        """Logs every so many steps, and the first and last of each directive."""
        self._every = every
        self._next = {STEP: 0, SEARCH_STEP: 0}
        # Of the search that is open: the last search step of each probe, by its directive's number.
        self._probe_ends: dict[int, int] = {}
        # Whether its probes are validated, and so are judged by that.
        self._validated = False

    @abc.abstractmethod
    def write(self, points: list[Point]) -> None:
        """Sends points, in order."""

    def reported(self, run: TunedRun, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Logs the steps of a report, on rank 0."""
        if run.rank > 0:
            return
        if not committed(directive):
            self._probe_ends[directive.number] = start + len(report.losses) - 1
            self._validated = bool(report.validations)
            self.write(self._points(run, SEARCH_STEP, f"{PREFIX}/probe", directive, report, start))
        elif not rolls_back(report):
            self.write(self._points(run, STEP, PREFIX, directive, report, start))

    def began(self, run: TunedRun, directive: pb.Directive) -> None:
        """Logs what was forecast, once a search is over."""
        if committed(directive) and self._probe_ends:
            self.write(self._forecasts(run))
            self._probe_ends.clear()

    def _points(
        self, run: TunedRun, axis: str, prefix: str, directive: pb.Directive, report: pb.Report, start: int
    ) -> list[Point]:
        sign, validated = (-1, "validation_metric") if run.mode == "max" else (1, "validation_loss")
        profile = profile_from_proto(directive.profile)
        last = len(report.losses) - 1
        validations = {max(validation.step - 1, 0): validation.loss for validation in report.validations}
        points = []
        for i, loss in enumerate(report.losses):
            due = i in (0, last) or i in validations or (start + i) % self._every == 0
            if not due or start + i < self._next[axis]:
                continue
            values = {f"{prefix}/lr": profile.lr(i), f"{prefix}/loss": loss, f"{prefix}/stage": directive.stage}
            if i in validations:
                values[f"{prefix}/{validated}"] = sign * validations[i]
            points.append(
                Point(axis, start + i, {name: value for name, value in values.items() if math.isfinite(value)})
            )
        self._next[axis] = max(self._next[axis], start + last + 1)
        return points

    def _forecasts(self, run: TunedRun) -> list[Point]:
        """The candidates at the ends of their probes, as the server judged them."""
        points = []
        sign = -1 if run.mode == "max" and self._validated else 1
        candidates = {
            candidate.directive_number: candidate for decision in run.decisions() for candidate in decision.candidates
        }
        for number, step in sorted(self._probe_ends.items()):
            candidate = candidates.get(number)
            if candidate is None or not candidate.HasField("forecast"):
                continue
            values = {f"{PREFIX}/candidate/lr": candidate.lr, f"{PREFIX}/candidate/forecast": sign * candidate.forecast}
            if candidate.HasField("forecast_sd"):
                values[f"{PREFIX}/candidate/forecast_sd"] = candidate.forecast_sd
            points.append(Point(SEARCH_STEP, step, values))
        return points
