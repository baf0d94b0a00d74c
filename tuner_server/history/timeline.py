"""A job's history, laid out along the steps that were run: what was trained, what was tried, and why.

The axis of all curves is the number of optimizer steps that were run, search included: what a search cost is its width,
and jobs with the same budget end at the same place. Probes that were tried at the same time lie one after another.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from tuner_server.core.messages import (
    ChangeKind,
    Decision,
    Directive,
    Outcome,
    Phase,
    opening_loss,
)
from tuner_server.core.stages.committed import too_few
from tuner_server.history.committed_run import CommittedRun
from tuner_server.history.plan_mark import PlanMark, overlooked
from tuner_server.history.stage import Probe, Span, Stage
from tuner_server.storage import Entry, History, KnownHistory, Series


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """All that was run, in order."""

    spans: tuple[Span, ...]
    stages: tuple[Stage, ...]
    changes: tuple[PlanMark, ...] = ()
    """The changes of the plan, where they took effect."""
    unsearched: Directive | None = None
    """The first one of a run that its policy found too short for a search. None: it is no such run."""
    maximises: bool = False
    """Whether validations are minus a metric that is the better the higher it is."""

    @property
    def n_steps(self) -> int:
        """Steps that were run."""
        return self.spans[-1].end if self.spans else 0

    @functools.cached_property
    def first_loss(self) -> float | None:
        """The untrained model's, or nearly: the first one of a report that is a number; None: there is none."""
        found = (opening_loss(span.losses[:1].tolist()) for span in self.spans)
        return next((loss for loss in found if loss is not None), None)

    @functools.cached_property
    def peak_lr(self) -> float | None:
        """The highest LR of the committed steps; None: there are none."""
        found = (span.profile.highest_lr(span.n_steps) for span in self.spans if span.kept)
        return max((lr for lr in found if lr is not None), default=None)

    @property
    def last_lr(self) -> float | None:
        """The LR of the last committed step; None: there is none."""
        span = next((span for span in reversed(self.spans) if span.kept), None)
        return None if span is None else span.profile.lr(span.n_steps - 1)

    @property
    def first_comparable_step(self) -> int:
        """The run step from which on the losses are of the same data, as far as anybody has said otherwise."""
        replans = [mark.step for mark in self.changes if mark.change.kind is ChangeKind.REPLAN]
        return replans[-1] if replans else 0

    @functools.cached_property
    def committed_run(self) -> CommittedRun:
        """What stayed, as the laws of loss curves read it."""
        return CommittedRun.of_spans(self.spans, self.first_comparable_step, maximises=self.maximises)

    def committed_losses(self, first_step: int = 0) -> Series:
        """(m,) of the committed steps from a run step on, in order."""
        kept = [span.losses for span in self.spans if span.kept and span.start >= first_step]
        return np.concatenate(kept) if kept else np.zeros(0, dtype=np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Laid:
    """An entry of a history, and where its steps lie."""

    entry: Entry
    span: Span | None
    """None: it has none."""
    changes: bool
    """Whether a change of the plan takes effect with it."""
    run_steps: int
    """Steps that were run before it."""
    committed_steps: int
    """Those of them that stayed."""


def laid_out(history: History, *, losses: bool = True, measures: bool = False) -> Iterator[Laid]:
    """Goes through a history, and lays its entries out along the steps that were run.

    Args:
        history: the history.
        losses: whether the losses are wanted; otherwise they may all be NaN.
        measures: whether the reports need their measures.
    """
    run_steps = committed_steps = 0
    entries = history.read(losses=losses, measures=measures)
    for entry, kept in zip(entries, history.outline.kept, strict=True):
        begun = run_steps
        span = None
        if entry.report is not None:
            if entry.report.replacement is not None:
                run_steps += entry.report.replacement.wasted_steps
            span = _span(entry, run_steps, committed_steps, kept)
        changes = entry.directive.change is not None and not overlooked(entry)
        yield Laid(entry, span, changes, begun, committed_steps)
        if span is not None:
            run_steps = span.end
            committed_steps += span.n_steps if kept else 0


def timeline(history: History, *, maximises: bool = False) -> Timeline:
    """Lays out a history, as pages need it. It holds four bytes a step.

    Args:
        history: the history.
        maximises: whether its validations are minus a metric (`JobConfig.maximises`).
    """
    spans: list[Span] = []
    marks: list[PlanMark] = []
    stages = _Stages(maximises)
    first: Directive | None = None
    # What is read is kept by the stages: once is enough, and half the work of a page.
    for laid in laid_out(KnownHistory(history.read(losses=True))):
        first = first or laid.entry.directive
        if laid.changes:
            _mark(marks, laid)
        if laid.span is not None:
            spans.append(laid.span)
        stages.add(laid.entry, laid.span)
    unsearched = first if first is not None and first.phase is Phase.TRAIN and too_few(first) else None
    return Timeline(tuple(spans), stages.all(), tuple(marks), unsearched, maximises)


def plan_marks(history: History) -> tuple[PlanMark, ...]:
    """The changes of the plan in a history, where they took effect."""
    marks: list[PlanMark] = []
    for laid in laid_out(history, losses=False):
        if laid.changes:
            _mark(marks, laid)
    return tuple(marks)


def _mark(marks: list[PlanMark], laid: Laid) -> None:
    """Adds the change that takes effect with an entry."""
    change = laid.entry.directive.change
    assert change is not None
    if change.kind is ChangeKind.UNDO_ANNEALING and marks:
        marks[-1] = dataclasses.replace(marks[-1], undone=marks[-1].change.kind is ChangeKind.ANNEAL)
    marks.append(PlanMark(change, laid.run_steps, laid.committed_steps))


def _span(entry: Entry, run_steps: int, committed_steps: int, kept: bool) -> Span | None:
    report, directive = entry.report, entry.directive
    assert report is not None
    profile, phase = directive.profile, directive.phase
    if report.replacement is not None:
        profile, phase = report.replacement.profile, Phase.TRAIN
    if profile is None or not report.n_steps:
        return None
    losses = report.losses
    if losses is None:
        losses = np.broadcast_to(np.float32(np.nan), (report.n_steps,))  # which takes no memory
    return Span(
        start=run_steps,
        committed_start=committed_steps,
        kept=kept,
        phase=phase,
        stage=directive.stage,
        outcome=report.outcome,
        profile=profile,
        losses=losses,
        validations=tuple(v for v in report.validations if math.isfinite(v.loss)),
        ending=report.ending,
        note=report.note,
    )


class _Stages:
    """Puts entries together: probes with the committed steps that they led to, and the parts of one directive."""

    def __init__(self, maximises: bool) -> None:
        self._maximises = maximises
        self._done: list[Stage] = []
        self._parts: list[Span] = []
        """Further spans of the last stage. They are put into it together: a stage may have many."""
        self._latest: Directive | None = None
        """The directive of the last one of them."""
        self._n_setbacks = 0
        """How often committed steps of stages before the last one were rolled back."""
        self._probes_before: dict[int, Probe] = {}
        """The probes of all stages by the numbers of their directives."""
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
        elif directive.phase.searches:
            self._probes.append((directive, span))
        elif self._goes_on(directive, entry.decision):
            self._parts += parts
            self._latest = directive
        elif directive.phase.committed:
            self._close(directive, entry.decision, parts, replaced=False)
        sound = report is not None and report.outcome in (Outcome.PARTIAL, Outcome.COMPLETED)
        self._continues = sound and directive.phase.committed

    def _goes_on(self, directive: Directive, decision: Decision | None) -> bool:
        """Whether committed steps go on with the decision of those right before them."""
        anew = directive.restore or directive.change is not None or decision is not None
        return directive.phase.committed and self._continues and not anew

    def all(self) -> tuple[Stage, ...]:
        """The stages, with the search that goes on."""
        if self._probes:
            self._close(None, self._decisions[-1] if self._decisions else None, (), replaced=False)
        self._last()
        return tuple(self._done)

    def _last(self) -> Stage | None:
        """The last stage, whole; None: there is none."""
        if not self._done:
            return None
        if self._latest is not None:
            last = self._done[-1]
            self._done[-1] = dataclasses.replace(last, spans=(*last.spans, *self._parts), latest=self._latest)
            self._parts, self._latest = [], None
        return self._done[-1]

    def _close(
        self, directive: Directive | None, decision: Decision | None, spans: tuple[Span, ...], *, replaced: bool
    ) -> None:
        judged = {c.directive_number: c for found in self._decisions for c in found.candidates}
        probes = tuple(Probe(tried, span, judged.get(tried.number)) for tried, span in self._probes)
        before_probes = [found for found in self._decisions if directive is None or found is not decision]
        # Where no probe tells anything, what was thought of them does not either.
        told = not any(probe.unrepeatable for probe in probes)
        thought = _latest_thought(self._decisions) if told else None
        before = self._last()
        if before is not None and before.undoing is not None:
            self._n_setbacks += 1
        if before is not None and directive is not None:
            self._done[-1] = dataclasses.replace(before, followed=True)
        led = [*(tried for tried, _ in self._probes), directive]
        numbers = [tried.stage for tried in led if tried is not None] or [span.stage for span in spans]
        number = numbers[-1] + 1 if numbers else len(self._done) + 1
        self._done.append(
            Stage(
                index=len(self._done),
                probes=probes,
                earlier=self._earlier(decision, probes),
                directive=directive,
                decision=decision,
                posterior=None if thought is None else thought.posterior,
                sought=_latest_thought(before_probes) if told else None,
                spans=spans,
                replaced=replaced,
                retreats_from=None if before is None else before.undoing,
                rejoins=before is not None and before.replaced,
                n_setbacks=self._n_setbacks,
                unrepeatable=self._unrepeatable,
                change=next((tried.change for tried in led if tried is not None and tried.change is not None), None),
                latest=directive,
                maximises=self._maximises,
                number=number,
                part=1 if before is None or before.number != number else before.part + 1,
            )
        )
        self._probes_before |= {probe.directive.number: probe for probe in probes}
        self._probes, self._decisions = [], []

    def _earlier(self, decision: Decision | None, probes: Sequence[Probe]) -> tuple[Probe, ...]:
        """The probes of a decision's candidates that are not among those of its own search."""
        candidates = () if decision is None else decision.candidates
        missing = {c.directive_number for c in candidates} - {probe.directive.number for probe in probes}
        if not missing:
            return ()
        return tuple(self._probes_before[number] for number in sorted(missing & self._probes_before.keys()))


def _latest_thought(decisions: Sequence[Decision]) -> Decision | None:
    """The latest that has a posterior."""
    return next((found for found in reversed(decisions) if found.posterior is not None), None)
