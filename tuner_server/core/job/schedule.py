"""The schedule as a fold over a job's history: what was committed, and what was rolled back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

# The server, the file and the client have the same segments.
from lrpilot.wire.schedule_data import Segment as Segment

from tuner_server.core.messages import Directive, Outcome, Phase, Replacement


class ReportedSteps(Protocol):
    """A report on a directive, as far as the schedule needs it."""

    @property
    def outcome(self) -> Outcome:
        """How the directive ended."""
        ...

    @property
    def n_steps(self) -> int:
        """How many steps were run."""
        ...

    @property
    def replacement(self) -> Replacement | None:
        """What was done instead of the directive."""
        ...


class IssuedDirective(Protocol):
    """A directive with its report, as far as the schedule needs them."""

    @property
    def directive(self) -> Directive:
        """The directive as it was issued."""
        ...

    @property
    def report(self) -> ReportedSteps | None:
        """The report as it came in; None: the directive is outstanding."""
        ...


def committed(entries: Iterable[IssuedDirective]) -> list[bool]:
    """Tells for each entry, in order, whether its steps are part of the schedule.

    A directive that restores undoes all that came since the last snapshot.
    """
    kept: list[bool] = []
    snapshot = 0
    for entry in entries:
        if entry.directive.restore:
            kept[snapshot:] = [False] * (len(kept) - snapshot)
        if entry.directive.snapshot:
            snapshot = len(kept)
        kept.append(entry.report is not None and _stays(entry.directive, entry.report))
    return kept


def _stays(directive: Directive, report: ReportedSteps) -> bool:
    if report.outcome is Outcome.REPLACED:
        return report.n_steps > 0
    if report.outcome is Outcome.REPLANNED and report.n_steps == 0:
        return False
    return directive.phase.committed and not report.outcome.rolls_back


def segments(entries: Sequence[IssuedDirective]) -> list[Segment]:
    """The segments of the schedule. The parts of one directive make one segment."""
    found: list[Segment] = []
    for entry, kept in zip(entries, committed(entries), strict=True):
        directive, report = entry.directive, entry.report
        if not kept or report is None:
            continue
        profile, phase, stage = directive.profile, directive.phase, directive.stage
        if report.replacement is not None:
            profile, phase, stage = report.replacement.profile, Phase.TRAIN, -1
        assert profile is not None
        last = found[-1] if found else None
        if last is not None and last.profile.after(last.n_steps) == profile:
            found[-1] = dataclasses.replace(last, n_steps=last.n_steps + report.n_steps)
            continue
        start = last.start_step + last.n_steps if last is not None else 0
        found.append(Segment(start, report.n_steps, profile, phase, stage))
    return found
