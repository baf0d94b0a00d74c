"""Whether going on is still worth it: a run that would gain too little is annealed at once (`stop_when`). Pure.

What is compared are two ends of the same run, both with the LR at zero: that of an annealing which begins now, over the
shortest sensible number of steps, and the planned one; a run without an end is given as many steps again. The annealing
law says what lies between them (`core.laws.annealing_law`); an average of the weights is taken to be as good as zero. A
plateau is no reason to stop, then, as long as the decay that is planned brings more than the short one. The run is
stopped if

    gain + SURENESS sd  <=  what is worth going on for

at two validations in a row. After any annealing nothing is stopped any more: who undoes it, or extends the run, has
decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import StopWhen
from tuner_server.core.job.loss_course import LossCourse, Point, Way
from tuner_server.core.job.state import JobState
from tuner_server.core.laws import annealing_law, learning_trend
from tuner_server.core.laws.annealing_law import AnnealingLaw
from tuner_server.core.laws.curve import Curve
from tuner_server.core.laws.lr_path import LrPath
from tuner_server.core.messages import ChangeKind, ChangeOrigin, Directive, PlanChange, Report
from tuner_server.core.stop_evidence import Stopping

VALIDATION_SHARE = 0.02
"""Validations are this part of the planned steps apart,"""
FEWEST_STEPS_APART = 10
"""but no less than so many steps."""
COOLDOWN = 0.2
"""An annealing from the peak takes this part of all steps, itself included; from a lower LR, as much fewer."""
SHORTEST_ANNEALING = 10
SMALLEST_SAVING = 0.02
"""Nothing is stopped that saves less than this part of the steps."""
SURENESS = 1.64
"""Standard errors: the gain is below that limit with a probability of 95%, as far as the error is known."""
LEAST_ERROR = 0.25
"""The standard error is no less than this part of the gain: the law itself is not better than that, and a run stops
where the error looks small."""
SETTLED = 0.1
"""Validations from this part of the steps so far on count: before, losses fall faster than any power law."""
LONGEST_MEMORY = 0.1
"""A fall of the LR takes effect within this part of the steps so far."""
ANNEALED = 0.3
"""An annealing brings about this part of what was gained before, or less, as far as that is known beforehand: on seven
workloads it brought 3% to 20%, and once 74%."""
OBSERVATIONS = 10
"""Validations that the evidence has."""


class Verdict(NamedTuple):
    """A change that ends the run, and why."""

    change: PlanChange
    evidence: Stopping


class _Ends(NamedTuple):
    """The two ends that are compared."""

    annealing: int
    """Steps of an annealing that begins now."""
    ahead: int
    """Steps to the planned end."""
    at_once: LrPath
    planned: LrPath


class _Judged(NamedTuple):
    """What going on would gain, as the validations up to one of them tell."""

    law: AnnealingLaw
    gain: float
    sd: float
    worth: float

    @property
    def enough(self) -> bool:
        """Whether going on is not worth it."""
        return self.gain + SURENESS * self.sd <= self.worth


def prepare() -> None:
    """Loads what a fit needs, while a client waits for its job: a report has to be answered within a second."""
    import scipy.optimize
    import scipy.signal  # noqa: F401


def watched(state: JobState, directive: Directive) -> Directive:
    """A directive with the validations by which a run can be stopped, if it is one of such a run's committed steps."""
    if state.course is None or not directive.phase.committed:
        return directive
    begin, n_steps = state.committed_steps, directive.n_steps
    planned = begin + (n_steps if state.remaining_steps is None else max(state.remaining_steps, n_steps))
    apart = max(math.ceil(VALIDATION_SHARE * planned), FEWEST_STEPS_APART)
    steps = {*directive.validate_at, *range(apart - begin % apart, n_steps + 1, apart)}
    if begin == 0 and state.first_validation is None:
        steps.add(0)
    return directive.model_copy(update={"validate_at": tuple(sorted(steps))})


def noticed(before: JobState, state: JobState, report: Report) -> Verdict | None:
    """The annealing that is due after sound committed steps; None: going on is worth it, or nobody can tell.

    Args:
        before: the job before these steps.
        state: the job with them.
        report: on them.
    """
    course, wanted = state.course, state.config.stop_when
    if course is None or wanted is None or before.course is None or len(course.points) < annealing_law.FEWEST_POINTS:
        return None
    if course.points[-1:] == before.course.points[-1:] or not state.present_lr:
        return None
    rest = before.directive.after(report.n_steps) if report.n_steps < before.directive.n_steps else None
    try:
        with np.errstate(all="ignore"):
            return _verdict(state, course, wanted, rest)
    except (ValueError, ArithmeticError):
        return None  # Losses that no law describes are no reason to stop, and none to fail.


def after_change(course: LossCourse | None, change: PlanChange) -> LossCourse | None:
    """What is kept of a course when a change of the plan takes effect."""
    if course is None or change.kind in (ChangeKind.ANNEAL, ChangeKind.UNDO_ANNEALING):
        return None
    return course.anew if change.kind is ChangeKind.REPLAN else course


def _verdict(state: JobState, course: LossCourse, wanted: StopWhen, rest: Directive | None) -> Verdict | None:
    ends = _ends(state, course, rest)
    if ends.ahead - ends.annealing < SMALLEST_SAVING * (course.n_steps + ends.ahead):
        return None
    latest = _judged(wanted, state, course.points, ends)
    if not latest.enough or not _judged(wanted, state, course.points[:-1], ends).enough:
        return None
    evidence = _evidence(latest, course, state, ends)
    change = PlanChange(
        kind=ChangeKind.ANNEAL, anneal_steps=ends.annealing, origin=ChangeOrigin.POLICY, reason=_reason(evidence)
    )
    return Verdict(change, evidence)


def _ends(state: JobState, course: LossCourse, rest: Directive | None) -> _Ends:
    """Where the run would be if it were annealed at once, and at its planned end.

    The planned way is the rest of the directive; then the LR is held, and cooled down. What comes after a directive is
    the policy's secret. That the LR is held as long as possible is the assumption by which going on gains most.
    """
    lr, peak = state.present_lr or 0.0, max(state.peak_lr or 0.0, state.present_lr or 0.0)
    whole = course.n_steps * COOLDOWN / (1.0 - COOLDOWN)
    annealing = max(round(whole * lr / peak), SHORTEST_ANNEALING)
    ahead = course.n_steps if state.remaining_steps is None else state.remaining_steps
    cooldown = max(round(COOLDOWN * (course.n_steps + ahead)), 1)
    planned, left = [], ahead
    if rest is not None and rest.profile is not None:
        n_steps = min(rest.n_steps, ahead if state.remaining_steps is not None else max(ahead - cooldown, 0))
        planned, left = [Way(rest.profile, n_steps)], ahead - n_steps
        lr = rest.profile.lr(n_steps)
    if rest is not None and rest.average is not None and left == 0:
        # An average of the weights stands in for the rest of the way down.
        planned.append(_to_zero(lr, annealing))
    held = max(left - cooldown, 0)
    planned += [Way(Profile.constant(lr, held), held)] if held else []
    planned += [_to_zero(lr, left - held)] if left > held else []
    return _Ends(annealing, ahead, course.path([_to_zero(state.present_lr or 0.0, annealing)]), course.path(planned))


def _to_zero(lr: float, n_steps: int) -> Way:
    return Way(Profile.to_zero(Shape.LINEAR, lr, n_steps), n_steps)


def _judged(wanted: StopWhen, state: JobState, points: Sequence[Point], ends: _Ends) -> _Judged:
    """What going on would gain, as some validations tell. Raises: UnfittableError: they don't."""
    course = state.course
    assert course is not None
    curve = _curve(course, _used(course, points))
    law = annealing_law.fit([curve], momenta=_momenta(course), logarithmic=False)
    opening = points[0].loss if state.first_validation is None else state.first_validation
    gained = max(opening - float(curve.losses.min()), float(np.ptp(curve.losses)))
    found = law.difference(ends.at_once, ends.planned, ANNEALED * gained, _momenta(course))
    worth = wanted.gain if wanted.share is None else wanted.share * gained
    return _Judged(law, found.loss, max(found.error, LEAST_ERROR * abs(found.loss)), worth or 0.0)


def _used(course: LossCourse, points: Sequence[Point]) -> list[Point]:
    """Those that the law is fitted to."""
    first = max(SETTLED * (points[-1].step - course.begins), course.warmup)
    return [point for point in points if point.step - course.begins > first]


def _curve(course: LossCourse, points: Sequence[Point]) -> Curve:
    path = course.path()
    steps = np.array([point.step - course.begins - 1 for point in points], dtype=np.float64)
    return Curve(path, np.minimum(steps, path.end), np.array([point.loss for point in points], dtype=np.float64))


def _momenta(course: LossCourse) -> Sequence[float]:
    """Those with a memory that is short enough for the steps so far."""
    usual = annealing_law.MOMENTA
    return [momentum for momentum in usual if (1.0 - momentum) * LONGEST_MEMORY * course.n_steps >= 1.0] or usual[:1]


def _evidence(latest: _Judged, course: LossCourse, state: JobState, ends: _Ends) -> Stopping:
    law, curve, last = latest.law, _curve(course, _used(course, course.points)), course.points[-OBSERVATIONS:]
    walked = curve.walked()
    trend = learning_trend.fit(walked.tolist(), (-curve.losses - law.gain * curve.annealed(law.momentum)).tolist())
    return Stopping(
        worth=latest.worth,
        gain=latest.gain,
        gain_sd=latest.sd,
        end_step=state.committed_steps + ends.ahead,
        open_ended=state.remaining_steps is None,
        floor=law.level,
        scale=law.amplitude * float(walked[-1]) ** -law.power,
        exponent=law.power,
        annealing=law.gain,
        memory=round(1.0 / (1.0 - law.momentum)),
        layer=trend.layer(float(walked[-1])),
        steps=tuple(point.step for point in last),
        losses=tuple(point.loss for point in last),
    )


def _reason(evidence: Stopping) -> str:
    """Why the run is stopped, in words."""
    onward = "as many steps again" if evidence.open_ended else f"going on to {evidence.end_step} committed steps"
    return (
        f"{onward} would gain {evidence.gain:.2g} with a standard error of {evidence.gain_sd:.2g}, "
        f"no more than the {evidence.worth:.2g} that is worth it"
    )
