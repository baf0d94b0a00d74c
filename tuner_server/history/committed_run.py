"""A run as the laws of loss curves read it: LRs and losses of steps that stayed, and of falls that were rolled back."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from lrpilot.wire import schedule_data
from lrpilot.wire.plan_change import ChangeKind
from lrpilot.wire.profile import Profile
from lrpilot.wire.schedule_data import ScheduleData

from tuner_server.core.laws import annealing_law
from tuner_server.core.laws.annealing_law import AnnealingLaw
from tuner_server.core.laws.curve import Curve, UnfittableError
from tuner_server.core.laws.lr_path import LrPath
from tuner_server.core.messages import Validation
from tuner_server.history.stage import Span
from tuner_server.history.thinning import FloatArray
from tuner_server.storage import Series

MOST_SAMPLES = 4096
"""LRs that a path is read at. Between them it moves along lines, so this bounds the time of a fit and nothing else."""
WINDOWS = 60
"""Means of training losses that the law is fitted to."""
LEFT_OUT = 0.05
"""The first part of the steps after the warm-up, whose losses are no power law yet."""
FEWEST_VALIDATIONS = 12
"""Validations from which on they are fitted instead of training losses."""
LEAST_VALIDATED = 0.5
"""The part of the steps that they must reach over."""
FEWEST_STEPS = 100
"""Steps with training losses, below which their means are noise."""
BRANCH_WINDOWS = 8
"""Means of the losses of a fall that was rolled back."""


class Piece(NamedTuple):
    """Steps at the LRs of one profile."""

    profile: Profile
    n_steps: int


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A fall of the LR that was rolled back, after so many committed steps."""

    start: int
    pieces: tuple[Piece, ...]
    losses: Series | FloatArray
    """(m,) one a step."""


@dataclasses.dataclass(frozen=True, eq=False)
class CommittedRun:
    """The steps that stayed, from the first one on."""

    pieces: tuple[Piece, ...]
    losses: Series | FloatArray
    """(n,) of the steps from the first one on; may end before the last."""
    validated: FloatArray
    """(m,) the steps, from 0, after which it was validated."""
    validations: FloatArray
    """(m,)"""
    comparable_from: int = 0
    """The first step whose losses are of the same data as the latest."""
    branches: tuple[Branch, ...] = ()
    maximises: bool = False
    """Whether validations are minus a metric that is the better the higher it is."""

    @classmethod
    def of_spans(cls, spans: Sequence[Span], first_step: int = 0, *, maximises: bool = False) -> CommittedRun:
        """The run of a job's history, whose losses can be compared from a run step on."""
        kept = [span for span in spans if span.kept]
        before = [span.n_steps for span in kept if span.start < first_step]
        found = [(span.committed_start, span.validations) for span in kept]
        validated, validations = _validations(found)
        losses = np.concatenate([span.losses for span in kept]) if kept else np.zeros(0, dtype=np.float32)
        pieces = tuple(Piece(span.profile, span.n_steps) for span in kept)
        return cls(pieces, losses, validated, validations, sum(before), _branches(spans, first_step), maximises)

    @classmethod
    def of_schedule(cls, found: ScheduleData) -> CommittedRun:
        """The run of a schedule's file. Validations of a metric to be maximised are minus it, as in a job's history."""
        maximises = found.mode == "max"
        if maximises:
            found = found.turned()
        validated, validations = _validations([(0, found.validations)])
        replans = [replan.step for replan in found.replans if replan.kind is ChangeKind.REPLAN]
        first = (replans or [0])[-1]
        pieces = tuple(Piece(segment.profile, segment.n_steps) for segment in found.segments)
        branches = tuple(
            Branch(probe.start_step, (Piece(probe.profile, probe.n_steps),), np.array(probe.losses, dtype=np.float64))
            for probe in found.probes
            if not probe.diverged and probe.start_step >= first and _falls(probe.profile, len(probe.losses))
        )
        return cls(pieces, np.array(found.losses, dtype=np.float64), validated, validations, first, branches, maximises)

    @property
    def n_steps(self) -> int:
        """Committed steps."""
        return sum(piece.n_steps for piece in self.pieces)

    @property
    def lr(self) -> float:
        """The LR of the step after the last one; 0: there are no steps."""
        return self.pieces[-1].profile.lr(self.pieces[-1].n_steps) if self.pieces else 0.0

    @functools.cached_property
    def highest_lr(self) -> float:
        """The highest LR of its steps; 0: there are no steps."""
        return max((piece.profile.highest_lr(piece.n_steps) or 0.0 for piece in self.pieces), default=0.0)

    def path(self, more: Sequence[Piece] = (), *, until: int | None = None) -> LrPath:
        """The LRs of its steps, and of some that may follow.

        Args:
            more: what follows.
            until: only so many of its own steps; None: all.
        """
        pieces = [*_first_steps(self.pieces, until), *more]
        stride = max(math.ceil(sum(piece.n_steps for piece in pieces) / MOST_SAMPLES), 1)
        lrs = _sampled(pieces, stride)
        # A warm-up is a rise that the run begins with. What was really walked in it tells more than its peak would.
        risen = int(np.argmax(np.diff(lrs, append=lrs[-1]) <= 0))
        return LrPath(lrs, stride, risen * stride, warmup_walks=True)

    @property
    def of_metric(self) -> bool:
        """Whether what is fitted is minus a metric."""
        return self.maximises and self.of_validations

    @property
    def of_validations(self) -> bool:
        """Whether validations are fitted; if not, training losses."""
        seen = self.validated[self.validated >= self.comparable_from]
        return seen.size >= FEWEST_VALIDATIONS and float(np.ptp(seen)) >= LEAST_VALIDATED * self.n_steps

    @functools.cached_property
    def _first(self) -> int:
        """The step from which on losses are fitted."""
        first = max(self.path().warmup, self.comparable_from)
        return first + int(LEFT_OUT * (self.n_steps - first))

    def curve(self) -> Curve:
        """What the law is fitted to: validations where there are enough, or means of training losses over windows.

        Raises:
            UnfittableError: there are too few losses.
        """
        if not self.pieces:
            raise UnfittableError("no step is committed yet")
        path, first = self.path(), self._first
        if self.of_validations:
            kept = (self.validated >= first) & np.isfinite(self.validations)
            return Curve(path, self.validated[kept], self.validations[kept])
        if self.losses.size - first < FEWEST_STEPS:
            raise UnfittableError(
                f"{max(self.losses.size - first, 0)} steps after the warm-up have losses: it takes {FEWEST_STEPS}"
            )
        return Curve(path, *_windows(self.losses, first, WINDOWS))

    @functools.cached_property
    def law(self) -> AnnealingLaw:
        """The annealing law of the run. Raises: UnfittableError: the losses tell too little."""
        curves = [self.curve()]
        if not self.of_validations:
            curves += [self._branch_curve(branch) for branch in self.branches if branch.start >= self._first]
        return annealing_law.fit(curves)

    def _branch_curve(self, branch: Branch) -> Curve:
        steps, losses = _windows(branch.losses, 0, BRANCH_WINDOWS)
        return Curve(self.path(branch.pieces, until=branch.start), steps + branch.start, losses)


def _first_steps(pieces: Sequence[Piece], n_steps: int | None) -> list[Piece]:
    """The pieces of the first so many steps."""
    if n_steps is None:
        return list(pieces)
    found = []
    for piece in pieces:
        if n_steps <= 0:
            break
        found.append(Piece(piece.profile, min(piece.n_steps, n_steps)))
        n_steps -= piece.n_steps
    return found


def _sampled(pieces: Sequence[Piece], stride: int) -> FloatArray:
    """The LR at every `stride`-th step, and once more after them, so that the last step lies within."""
    lrs: list[float] = []
    start = 0
    for profile, n_steps in pieces:
        lrs += [profile.lr(step - start) for step in range(len(lrs) * stride, start + n_steps, stride)]
        start += n_steps
    if (len(lrs) - 1) * stride < start - 1:
        lrs.append(pieces[-1].profile.lr(pieces[-1].n_steps - 1))
    return np.array(lrs, dtype=np.float64)


def _windows(losses: Series | FloatArray, first: int, most: int) -> tuple[FloatArray, FloatArray]:
    """The middles of windows from a step on, and the means of their finite losses."""
    edges = np.unique(np.linspace(first, losses.size, most + 1).round().astype(np.int64))
    middles, means = [], []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        found = losses[low:high].astype(np.float64)
        found = found[np.isfinite(found)]
        if found.size:
            middles.append((low + high - 1) / 2)
            means.append(float(found.mean()))
    return np.array(middles), np.array(means)


def _validations(
    found: Iterable[tuple[int, Sequence[Validation] | Sequence[schedule_data.Validation]]],
) -> tuple[FloatArray, FloatArray]:
    """The steps, from 0, and the losses of validations that count from certain steps on."""
    pairs = [(start + max(one.step, 1) - 1, one.loss) for start, some in found for one in some]
    steps, losses = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, losses


def _branches(spans: Sequence[Span], first_step: int) -> tuple[Branch, ...]:
    """The falls of the LR that were rolled back, those that were reported in parts put together."""
    found: list[Branch] = []
    for span in spans:
        if span.kept or not _falls(span.profile, span.n_steps) or span.outcome.rolls_back or span.start < first_step:
            continue
        last = found[-1] if found else None
        piece = Piece(span.profile, span.n_steps)
        if last is not None and last.start == span.committed_start and _goes_on(last.pieces[-1], piece):
            losses = np.concatenate([last.losses, span.losses])
            found[-1] = Branch(last.start, (*last.pieces, piece), losses)
        else:
            found.append(Branch(span.committed_start, (piece,), span.losses))
    return tuple(found)


def _falls(profile: Profile, n_steps: int) -> bool:
    """Whether the LR is lower after so many steps of a profile than it was at its highest."""
    return n_steps > 0 and profile.lr(n_steps - 1) < (profile.highest_lr(n_steps) or 0.0)


def _goes_on(piece: Piece, then: Piece) -> bool:
    """Whether a piece is what is left of another one."""
    return then.profile == piece.profile.after(piece.n_steps)
