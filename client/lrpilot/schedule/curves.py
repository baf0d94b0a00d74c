"""Loss and LR along all steps that were run, search included: what a notebook and a terminal draw. Pure."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

from lrpilot.wire.axes import axis_floor, height, highest_loss
from lrpilot.wire.profile import Profile
from lrpilot.wire.schedule_data import ScheduleData, Segment

COMMITTED, SEARCH = "#3b82c4", "#d9822b"
"""Blue stays in the model, orange is rolled back, as on the dashboard; both can be seen on white and on black."""

Curve = list[float | None]
"""A value for each column; None where there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """The run steps [start, end), all at the LRs of one profile."""

    start: int
    end: int
    profile: Profile
    losses: Sequence[float]
    """From `start` on; may end before `end`."""
    kept: bool
    """Whether the steps stayed; if not, they were search."""
    stage: int
    """The stage, as the server counts them; a search has that of the steps that it leads to."""


@dataclasses.dataclass(frozen=True, slots=True)
class Band:
    """A search, or the committed steps of a stage, which counts from 1: the run steps [start, end)."""

    start: int
    end: int
    kept: bool
    stage: int


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """Means over columns of equal width."""

    n_steps: int
    """Steps that were run."""
    n_columns: int
    committed_loss: Curve
    search_loss: Curve
    committed_lr: Curve
    search_lr: Curve


def pieces(schedule: ScheduleData) -> list[Piece]:
    """A schedule in the order in which it was run, each probe before the committed step that it started from.

    What was committed and rolled back is no part of a schedule, and of these neither.
    """
    probes = sorted(schedule.probes, key=lambda probe: probe.start_step)  # stable: those of one start stay in order
    tried = {start: list(group) for start, group in itertools.groupby(probes, key=lambda probe: probe.start_step)}
    cuts = sorted({schedule.n_steps, *tried, *(segment.start_step for segment in schedule.segments)})
    found: list[Piece] = []
    end = 0
    for start, until in itertools.pairwise([*cuts, cuts[-1]]):
        for probe in tried.get(start, ()):
            if probe.n_steps:
                found.append(Piece(end, end + probe.n_steps, probe.profile, probe.losses, False, probe.stage))
                end = found[-1].end
        if start < until and start < schedule.n_steps:
            segment = schedule.segments[bisect.bisect_right(schedule.segments, start, key=_start_step) - 1]
            profile = segment.profile.after(start - segment.start_step)
            found.append(Piece(end, end + until - start, profile, schedule.losses[start:until], True, segment.stage))
            end = found[-1].end
    return found


def _start_step(segment: Segment) -> int:
    return segment.start_step


def bands(found: Sequence[Piece]) -> list[Band]:
    """The searches and stages; pieces of the same one make one band."""
    made: list[Band] = []
    stage = 0
    for (kept, _), group in itertools.groupby(found, key=lambda piece: (piece.kept, piece.stage)):
        parts = list(group)
        stage += kept
        made.append(Band(parts[0].start, parts[-1].end, kept, stage if kept else stage + 1))
    return made


def run_step(found: Sequence[Piece], committed_step: int) -> int:
    """The steps that were run, search included, once so many were committed; a search from there comes after."""
    left = committed_step
    for piece in found:
        if left <= 0:
            return piece.start
        if piece.kept:
            if piece.end - piece.start >= left:
                return piece.start + left
            left -= piece.end - piece.start
    return found[-1].end if found else 0


def curves(found: Sequence[Piece], n_columns: int) -> Curves:
    """Loss and LR in `n_columns` columns, or in as many as there are steps; a loss that is no number doesn't count."""
    n_steps = found[-1].end if found else 0
    n = min(n_columns, n_steps)
    means = {(name, kept): _Means(n) for name in ("loss", "lr") for kept in (True, False)}
    for piece in found:
        for column in range(piece.start * n // n_steps, (piece.end - 1) * n // n_steps + 1):
            # Its steps are those with step * n // n_steps == column.
            first = max(piece.start, -(-column * n_steps // n)) - piece.start
            end = min(piece.end, -(-(column + 1) * n_steps // n)) - piece.start
            losses = [loss for loss in piece.losses[first:end] if math.isfinite(loss)]
            means["loss", piece.kept].add(column, math.fsum(losses), len(losses))
            lr = piece.profile.lr((first + end - 1) // 2)
            means["lr", piece.kept].add(column, lr * (end - first), end - first)
    return Curves(
        n_steps=n_steps,
        n_columns=n,
        committed_loss=means["loss", True].values(),
        search_loss=means["loss", False].values(),
        committed_lr=means["lr", True].values(),
        search_lr=means["lr", False].values(),
    )


class _Means:
    def __init__(self, n: int) -> None:
        self._sums, self._counts = [0.0] * n, [0] * n

    def add(self, column: int, total: float, count: int) -> None:
        self._sums[column] += total
        self._counts[column] += count

    def values(self) -> Curve:
        return [total / count if count else None for total, count in zip(self._sums, self._counts, strict=True)]


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """What of two curves is drawn: from `low` to `high`."""

    low: float
    high: float
    log: bool
    lowest: float
    """The lowest value that there is; if below `low`, it is drawn there."""
    highest: float
    """The highest value that there is; what is above `high` is not drawn."""

    @classmethod
    def over(cls, committed: Curve, search: Curve, *, of_lrs: bool) -> Scale | None:
        """The scale for curves of loss, or of LR; None: there is nothing to draw.

        Losses that only a search reached, such as those of a probe that diverged, are cut off. The scale is logarithmic
        for LRs, of which a last one may be zero, and for losses if all are positive.
        """
        stayed = [value for value in committed if value is not None]
        searched = [value for value in search if value is not None]
        if not stayed and not searched:
            return None
        lowest, highest = min(stayed + searched), max(stayed + searched)
        high = highest if of_lrs else highest_loss(stayed, searched)
        log = high > 0 and (of_lrs or lowest > 0)
        low = max(lowest, axis_floor(stayed, high)) if log else min(lowest, high)
        return cls(low, high, log, lowest, highest)

    def part(self, value: float) -> float | None:
        """How high a value is drawn: from 0, at the bottom, to 1; None: it is cut off."""
        return None if value > self.high else height(value, self.low, self.high, log=self.log)


def known(values: Iterable[tuple[int, float | None]]) -> list[list[tuple[int, float]]]:
    """The unbroken runs of points that are there."""
    runs: list[list[tuple[int, float]]] = []
    for is_there, group in itertools.groupby(values, key=lambda point: point[1] is not None):
        if is_there:
            runs.append([(x, y) for x, y in group if y is not None])
    return runs
