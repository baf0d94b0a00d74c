"""The schedule as a fold over a job's history: what was committed, and what was rolled back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
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


@dataclasses.dataclass(frozen=True, slots=True)
class Outline:
    """What a history comes to, by which it can be read entry by entry: whether steps stay is known at its end only."""

    kept: tuple[bool, ...]
    """What `committed` tells of each entry."""
    segments: tuple[Segment, ...]
    """The segments of the schedule. The parts of one directive make one segment."""

    @classmethod
    def of(cls, entries: Iterable[IssuedDirective]) -> Outline:
        """The outline of a history, which is gone through once."""
        pieces: list[Segment | None] = []

        def noted() -> Iterator[IssuedDirective]:
            for entry in entries:
                pieces.append(_piece(entry))
                yield entry

        kept = committed(noted())
        stay = (piece for piece, stays in zip(pieces, kept, strict=True) if stays and piece is not None)
        return cls(tuple(kept), tuple(_joined(stay)))


def _piece(entry: IssuedDirective) -> Segment | None:
    """The steps of a report, wherever they begin; None: there are none."""
    directive, report = entry.directive, entry.report
    if report is None:
        return None
    if report.replacement is not None:
        profile = report.replacement.profile
        return None if profile is None else Segment(0, report.n_steps, profile, Phase.TRAIN, 0)
    if directive.profile is None:
        return None
    return Segment(0, report.n_steps, directive.profile, directive.phase, directive.stage + 1)


def _joined(pieces: Iterable[Segment]) -> Iterator[Segment]:
    """Segments that follow on one another, each of pieces that go on with the same profile."""
    last: Segment | None = None
    for piece in pieces:
        if last is not None and last.profile.after(last.n_steps) == piece.profile:
            last = dataclasses.replace(last, n_steps=last.n_steps + piece.n_steps)
            continue
        if last is not None:
            yield last
        start = last.start_step + last.n_steps if last is not None else 0
        last = dataclasses.replace(piece, start_step=start)
    if last is not None:
        yield last
