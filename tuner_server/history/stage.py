"""What a history consists of: the spans of its reports, and the stages that they are parts of."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from lrpilot.wire.profile import Profile

from tuner_server.core.evidence.promise import shortfall
from tuner_server.core.messages import (
    LOSS_WINDOW,
    Candidate,
    ChangeKind,
    Decision,
    Directive,
    Ending,
    Outcome,
    Phase,
    PlanChange,
    PosteriorCurve,
    Validation,
    best_candidate,
)
from tuner_server.storage import Series


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
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
    losses: Series
    """(n_steps,)"""
    validations: tuple[Validation, ...]
    ending: Ending | None = None
    """What came of the average of the weights; None: there was none, or this is not its end."""
    note: str = ""
    """What the client saw in it, for people; empty: nothing that is to be told."""

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
    def is_range_test(self) -> bool:
        """Whether the LR rose, to see where training falls apart."""
        return self.directive.phase is Phase.RANGE_TEST

    @property
    def diverged(self) -> bool:
        """Whether its loss went out of bounds."""
        return self.span is not None and self.span.outcome is Outcome.DIVERGED

    @property
    def warned(self) -> bool:
        """Whether it was ended by an early warning, before its loss went out of bounds."""
        return self.diverged and self.span is not None and bool(self.span.note)

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
    reached: float | None = None
    """The lowest level that the run had itself, if it was held to that."""

    @property
    def diverged(self) -> bool:
        """Whether the losses went out of bounds; if not, they fell short of what was promised."""
        return self.outcome is Outcome.DIVERGED


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A search (which may be empty) and the committed steps that it led to (None: it goes on).

    A policy that rolls back and goes on with no further search stays in its stage: what follows is another part of it.
    """

    index: int
    """Its place among all of them, from 0."""
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
    change: PlanChange | None = None
    """The change of the plan with which it begins; None: it begins with none."""
    latest: Directive | None = None
    """The last one of its steps: `directive`, its rest, or another one that goes on with the same decision."""
    followed: bool = False
    """Whether another stage has committed steps after it."""
    maximises: bool = False
    """Whether validations are minus a metric that is the better the higher it is."""
    number: int = 1
    """The policy's, from 1, as clients, exports and schedules have it; 0 is before the first."""
    part: int = 1
    """Which of those with this number it is, from 1."""

    @property
    def called(self) -> str:
        """Its number, and its part if it is not the first one."""
        return f"{self.number:,}" if self.part == 1 else f"{self.number:,}, part {self.part:,}"

    @property
    def lr(self) -> float | None:
        """The LR that was committed, at its highest."""
        return max(self.lrs, default=None)

    @functools.cached_property
    def lrs(self) -> tuple[float, ...]:
        """The highest LR of each profile that it had: of one, or of several where its LR is adapted on the way."""
        if self.replaced:
            return (self.spans[0].profile.peak,) if self.spans else ()
        if self.directive is None or self.directive.profile is None:
            return ()
        found, before = [_highest_lr(self.directive.profile, self.directive.n_steps)], self.directive.profile
        for span in self.spans[1:]:
            # The rest of a profile has an offset, and is no other one.
            if dataclasses.replace(span.profile, offset=before.offset) != before:
                found.append(_highest_lr(span.profile, span.n_steps))
            before = span.profile
        return tuple(found)

    @property
    def latest_reason(self) -> str:
        """Why it went on as it did at last, where that is told besides why it began; empty: it is not."""
        if self.latest is None or self.directive is None or self.latest.reason == self.directive.reason:
            return ""
        return self.latest.reason

    @property
    def granted_steps(self) -> int:
        """Steps that it has or had: those that it was given, or, where another decision cut it short, came to."""
        assert self.directive is not None
        if self.followed and self.committed_steps and not self.given_back_steps:
            return self.committed_steps
        return max(self.directive.n_steps, self.committed_steps)  # further directives may go on without a decision

    @property
    def undone_annealing(self) -> bool:
        """Whether its steps are an annealing that was undone."""
        anneals = self.change is not None and self.change.kind is ChangeKind.ANNEAL
        return anneals and self.undoing is None and self.given_back_steps > 0

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
        # The bars may have moved since the first part, so what counts is the directive that was reported on last.
        promise = () if self.latest is None else self.latest.promise
        short = shortfall(promise, 0, last.losses.tolist(), last.validations)
        if short.validated:
            undoing = dataclasses.replace(undoing, last_step=before + last.validations[-1].step)
        return dataclasses.replace(undoing, **short._asdict())

    @property
    def restart(self) -> bool:
        """Whether it followed a divergence without a search, and diverged in turn."""
        causes = (self.retreats_from, self.undoing)
        return not self.probes and self.change is None and all(cause is not None and cause.diverged for cause in causes)

    @property
    def validated(self) -> bool:
        """Whether its probes were judged by validation loss."""
        return any(probe.directive.validate_at for probe in self.tried)

    @property
    def of_metric(self) -> bool:
        """Whether its probes were judged by a metric that is to be maximised."""
        return self.maximises and self.validated

    @property
    def quantity(self) -> str:
        """What its probes were judged by, in a word."""
        return "metric" if self.of_metric else "loss"

    def shown(self, loss: float) -> float:
        """What its probes were judged by, as people read it: a loss, or a metric with its own sign."""
        return -loss if self.of_metric else loss

    @property
    def search_steps(self) -> int:
        """Steps of its probes, those that were tried at the same time counted once."""
        spans = (probe.span for probe in self.probes if not probe.directive.taken_along)
        return sum(span.n_steps for span in spans if span is not None)

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
        tail = np.concatenate([losses[-LOSS_WINDOW:] for losses in kept[-LOSS_WINDOW:]])[-LOSS_WINDOW:]
        return float(tail.mean(dtype=np.float64))

    @property
    def end_validation(self) -> float | None:
        """The last validation of its committed steps."""
        found = [validation.loss for span in self.spans if span.kept for validation in span.validations]
        return found[-1] if found else None


def _highest_lr(profile: Profile, n_steps: int) -> float:
    """The highest LR that the first `n_steps` steps of a directive, at least one, lead to.

    The LR of the step after the last one counts where they come to the profile's end: a ramp to 0.1 leads to 0.1.
    """
    highest = profile.highest_lr(n_steps)
    assert highest is not None
    ended = profile.offset + n_steps >= profile.length
    return max(highest, profile.last_lr) if ended else highest
