"""A job's history, laid out along the steps that were run: what was trained, what was tried, and why.

The axis of all curves is the number of optimizer steps that were run, search included: what a search cost is its width,
and jobs with the same budget end at the same place.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from lrpilot.wire.profile import Profile

from tuner_server.core.job import schedule
from tuner_server.core.messages import (
    LOSS_WINDOW,
    Candidate,
    Decision,
    Directive,
    Outcome,
    Phase,
    PosteriorCurve,
    Validation,
    best_candidate,
)
from tuner_server.core.stages.committed import too_few
from tuner_server.core.stages.promise import shortfall
from tuner_server.history import lr_way
from tuner_server.history.thinning import FloatArray
from tuner_server.storage import Entry


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """The steps of one report: run steps [start, start + n_steps)."""

    start: int
    committed_start: int
    """Committed steps before it."""
    kept: bool
    """Whether its steps are part of the schedule."""
    phase: Phase
    stage: int
    outcome: Outcome
    profile: Profile
    losses: FloatArray
    """(n_steps,)"""
    validations: tuple[Validation, ...]
    measures: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """What was measured besides the loss, by name: one value a step."""

    @property
    def n_steps(self) -> int:
        """How many steps were run."""
        return len(self.losses)

    @property
    def end(self) -> int:
        """The run step after the last one."""
        return self.start + self.n_steps

    @property
    def given_back_steps(self) -> int:
        """Steps that were committed, and rolled back."""
        return self.n_steps if self.phase.committed and not self.kept else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """One try of a search: a candidate's probe, or the range test."""

    directive: Directive
    span: Span | None
    """None: it is being run, or never was."""
    candidate: Candidate | None
    """The probe as it was judged; None: not yet, or it is a range test."""

    @property
    def lr(self) -> float:
        """The LR that was tried; of a range test the lowest."""
        assert self.directive.profile is not None
        return self.directive.profile.start_lr

    @property
    def diverged(self) -> bool:
        """Whether its loss went out of bounds."""
        return self.span is not None and self.span.outcome is Outcome.DIVERGED

    @property
    def unrepeatable(self) -> bool:
        """Whether it did not begin with the loss that the first probe began with."""
        return self.span is not None and self.span.outcome is Outcome.UNREPEATABLE


@dataclasses.dataclass(frozen=True)
class Undoing:
    """Why committed steps were rolled back."""

    outcome: Outcome
    """DIVERGED or FELL_SHORT."""
    lr: float | None
    """Their peak."""
    first_step: int
    """The first step of the last report; the first of the committed steps is step 1."""
    last_step: int
    loss: float | None = None
    """What was above its bar: the median loss of the last report, or its last validation; None after a divergence."""
    bar: float | None = None
    """What was promised of it; None after a divergence."""
    validated: bool = False
    """Whether it is a validation, the second in a row above the bar."""

    @property
    def diverged(self) -> bool:
        """Whether the losses went out of bounds; if not, they fell short of what was promised."""
        return self.outcome is Outcome.DIVERGED


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A search (which may be empty) and the committed steps that it led to (None: it goes on)."""

    index: int
    probes: tuple[Probe, ...]
    """The probes of the search."""
    earlier: tuple[Probe, ...]
    """Probes of a search that was broken off when the client went on by itself; they count for the decision, too."""
    directive: Directive | None
    """The committed one."""
    decision: Decision | None
    """Behind it; of a search that goes on, the latest one."""
    posterior: PosteriorCurve | None
    """The latest of the search."""
    sought: Decision | None
    """The one in which the surrogate chose the last probe; None: it chose none."""
    spans: tuple[Span, ...]
    """The spans of the committed steps."""
    replaced: bool
    """Whether the client trained on by itself, without the server."""
    retreats_from: Undoing | None
    """What was rolled back right before it; None: nothing was."""
    rejoins: bool
    """Whether the client had trained on by itself right before it."""
    n_setbacks: int
    """How often committed steps of stages before it were rolled back."""
    unrepeatable: str
    """What the client saw where a rollback was not complete, in this search or before it; empty: nothing."""

    @property
    def lr(self) -> float | None:
        """The LR that was committed, at its highest."""
        if self.replaced:
            return self.spans[0].profile.peak if self.spans else None
        if self.directive is None or self.directive.profile is None:
            return None
        return lr_way.highest_lr(self.directive.profile, self.directive.n_steps)

    @property
    def trained_unsought(self) -> bool:
        """Whether its steps were committed by the server with nothing tried before them; a warm-up is none such."""
        return self.directive is not None and self.directive.phase is Phase.TRAIN and not self.tried

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that were judged."""
        return self.decision.candidates if self.decision is not None else ()

    @functools.cached_property
    def best(self) -> Candidate | None:
        """The candidate with the lowest loss; None: none was judged, or all diverged."""
        return best_candidate(self.candidates)

    @functools.cached_property
    def second(self) -> Candidate | None:
        """The next one; None: there is none, or it diverged."""
        return best_candidate(candidate for candidate in self.candidates if candidate is not self.best)

    @property
    def tried(self) -> tuple[Probe, ...]:
        """All probes that the decision may have been made by."""
        return self.earlier + self.probes

    @functools.cached_property
    def winner(self) -> Probe | None:
        """The probe of the best candidate, if there is one."""
        best = self.best
        return next((p for p in self.tried if best is not None and p.directive.number == best.directive_number), None)

    @functools.cached_property
    def undoing(self) -> Undoing | None:
        """Why its committed steps were rolled back; None: they were not."""
        if not self.spans or not self.spans[-1].outcome.rolls_back:
            return None
        last = self.spans[-1]
        before = sum(span.n_steps for span in self.spans[:-1])
        undoing = Undoing(last.outcome, self.lr, before + 1, before + last.n_steps)
        if undoing.diverged:
            return undoing
        promise = () if self.directive is None else self.directive.promise
        short = shortfall(promise, before, last.losses.tolist(), last.validations)
        if short.validated:
            undoing = dataclasses.replace(undoing, last_step=before + last.validations[-1].step)
        return dataclasses.replace(undoing, **short._asdict())

    @property
    def restart(self) -> bool:
        """Whether it followed a divergence without a search, and diverged in turn."""
        causes = (self.retreats_from, self.undoing)
        return not self.probes and all(cause is not None and cause.diverged for cause in causes)

    @property
    def search_steps(self) -> int:
        """Steps of its probes."""
        return sum(probe.span.n_steps for probe in self.probes if probe.span is not None)

    @property
    def committed_steps(self) -> int:
        """Steps that stayed."""
        return sum(span.n_steps for span in self.spans if span.kept)

    @property
    def given_back_steps(self) -> int:
        """Steps that were committed, and rolled back."""
        return sum(span.given_back_steps for span in self.spans)

    @property
    def end_loss(self) -> float | None:
        """The mean of the last committed losses."""
        kept = [span.losses for span in self.spans if span.kept]
        if not kept:
            return None
        tail = np.concatenate(kept)[-LOSS_WINDOW:]
        return float(tail.mean())

    @property
    def end_validation(self) -> float | None:
        """The last validation of its committed steps."""
        found = [validation.loss for span in self.spans if span.kept for validation in span.validations]
        return found[-1] if found else None


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """All that was run, in order."""

    spans: tuple[Span, ...]
    stages: tuple[Stage, ...]
    unsearched: Directive | None = None
    """The first one of a run that its policy found too short for a search. None: it is no such run."""

    @property
    def n_steps(self) -> int:
        """Steps that were run."""
        return self.spans[-1].end if self.spans else 0

    @property
    def first_loss(self) -> float | None:
        """The untrained model's, or nearly: the first one of a report that is a number; None: there is none."""
        found = (float(span.losses[0]) for span in self.spans)
        return next((loss for loss in found if math.isfinite(loss)), None)

    @property
    def peak_lr(self) -> float | None:
        """The highest LR of the committed steps; None: there are none."""
        found = (span.profile.highest_lr(span.n_steps) for span in self.spans if span.kept)
        return max((lr for lr in found if lr is not None), default=None)

    @property
    def last_lr(self) -> float | None:
        """The LR of the last committed step; None: there is none."""
        span = next((span for span in reversed(self.spans) if span.kept), None)
        return None if span is None else span.profile.lr(span.n_steps - 1)

    def committed_losses(self) -> FloatArray:
        """(m,) of the committed steps, in order."""
        kept = [span.losses for span in self.spans if span.kept]
        return np.concatenate(kept) if kept else np.zeros(0)


def timeline(entries: Sequence[Entry]) -> Timeline:
    """Lays out a history that was read with its losses."""
    spans: list[Span] = []
    stages = _Stages()
    run_steps = committed_steps = 0
    for entry, kept in zip(entries, schedule.committed(entries), strict=True):
        span = None
        if entry.report is not None:
            if entry.report.replacement is not None:
                run_steps += entry.report.replacement.wasted_steps
            span = _span(entry, run_steps, committed_steps, kept)
        if span is not None:
            spans.append(span)
            run_steps = span.end
            committed_steps += span.n_steps if kept else 0
        stages.add(entry, span)
    first = entries[0].directive if entries else None
    unsearched = first if first is not None and first.phase is Phase.TRAIN and too_few(first) else None
    return Timeline(tuple(spans), stages.all(), unsearched)


def _span(entry: Entry, run_steps: int, committed_steps: int, kept: bool) -> Span | None:
    report, directive = entry.report, entry.directive
    assert report is not None
    assert report.losses is not None
    profile, phase = directive.profile, directive.phase
    if report.replacement is not None:
        profile, phase = report.replacement.profile, Phase.TRAIN
    if profile is None or not report.losses:
        return None
    return Span(
        start=run_steps,
        committed_start=committed_steps,
        kept=kept,
        phase=phase,
        stage=directive.stage,
        outcome=report.outcome,
        profile=profile,
        losses=np.array(report.losses, dtype=np.float64),
        validations=tuple(v for v in report.validations if math.isfinite(v.loss)),
        measures=report.measures,
    )


class _Stages:
    """Puts entries together: probes with the committed steps that they led to, and the parts of one directive."""

    def __init__(self) -> None:
        self._done: list[Stage] = []
        self._probes: list[tuple[Directive, Span | None]] = []
        self._decisions: list[Decision] = []
        self._continues = False
        self._unrepeatable = ""

    def add(self, entry: Entry, span: Span | None) -> None:
        """The next entry of the history."""
        directive, report = entry.directive, entry.report
        if entry.decision is not None:
            self._decisions.append(entry.decision)
        replaced = report is not None and report.outcome is Outcome.REPLACED
        parts = () if span is None else (span,)
        if report is not None and report.outcome is Outcome.UNREPEATABLE:
            self._unrepeatable = report.note
        if replaced:
            self._close(None, None, parts, replaced=True)
        elif directive.phase in (Phase.PROBE, Phase.RANGE_TEST):
            self._probes.append((directive, span))
        elif directive.phase.committed and self._continues and not directive.restore:
            last = self._done[-1]
            self._done[-1] = dataclasses.replace(last, spans=last.spans + parts)
        elif directive.phase.committed:
            self._close(directive, entry.decision, parts, replaced=False)
        self._continues = report is not None and report.outcome is Outcome.PARTIAL

    def all(self) -> tuple[Stage, ...]:
        """The stages, with the search that goes on."""
        if self._probes:
            self._close(None, self._decisions[-1] if self._decisions else None, (), replaced=False)
        return tuple(self._done)

    def _close(
        self, directive: Directive | None, decision: Decision | None, spans: tuple[Span, ...], *, replaced: bool
    ) -> None:
        judged = {c.directive_number: c for found in self._decisions for c in found.candidates}
        probes = tuple(Probe(asked, span, judged.get(asked.number)) for asked, span in self._probes)
        asked = self._decisions if directive is None else [found for found in self._decisions if found is not decision]
        # Where no probe tells anything, what was thought of them does not either.
        told = not any(probe.unrepeatable for probe in probes)
        thought = _latest_thought(self._decisions) if told else None
        before = self._done[-1] if self._done else None
        self._done.append(
            Stage(
                index=len(self._done),
                probes=probes,
                earlier=self._earlier(decision, probes),
                directive=directive,
                decision=decision,
                posterior=None if thought is None else thought.posterior,
                sought=_latest_thought(asked) if told else None,
                spans=spans,
                replaced=replaced,
                retreats_from=None if before is None else before.undoing,
                rejoins=before is not None and before.replaced,
                n_setbacks=sum(stage.undoing is not None for stage in self._done),
                unrepeatable=self._unrepeatable,
            )
        )
        self._probes, self._decisions = [], []

    def _earlier(self, decision: Decision | None, probes: Sequence[Probe]) -> tuple[Probe, ...]:
        """The probes of a decision's candidates that are not among those of its own search."""
        candidates = () if decision is None else decision.candidates
        missing = {c.directive_number for c in candidates} - {probe.directive.number for probe in probes}
        if not missing:
            return ()
        return tuple(probe for stage in self._done for probe in stage.probes if probe.directive.number in missing)


def _latest_thought(decisions: Sequence[Decision]) -> Decision | None:
    """The latest that has a posterior."""
    return next((found for found in reversed(decisions) if found.posterior is not None), None)
