"""Whether going on is still worth it: a run that would gain too little is annealed at once (`stop_when`). Pure.

What is compared are two ends of the same run, both with the LR at zero: that of an annealing which begins now, over the
shortest sensible number of steps, and the planned one; a run without an end is given as many steps again. The annealing
law says what lies between them (`core.laws.going_on`). A plateau is no reason to stop, then, as long as the decay that
is planned brings more than the short one. The run is stopped if

    gain + SURENESS sd  <=  what is worth going on for

at two validations in a row. After any annealing nothing is stopped any more: who undoes it, or extends the run, has
decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import StopWhen
from tuner_server.core.job.loss_course import MEMORIES, LossCourse, Place, Point
from tuner_server.core.job.state import JobState
from tuner_server.core.laws import learning_trend
from tuner_server.core.laws.going_on import Gain, gain
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
"""Standard errors: the gain is below that limit with a probability of 95%."""
IN_A_ROW = 2
SETTLED = 0.1
"""Validations from this part of the steps so far on count: before, losses fall faster than any power law."""
LONGEST_MEMORY = 0.1
"""A fall of the LR takes effect within this part of the steps so far."""
OBSERVATIONS = 10
"""Validations that the evidence has."""


class Verdict(NamedTuple):
    """A change that ends the run, and why."""

    change: PlanChange
    evidence: Stopping


def watched(state: JobState, directive: Directive) -> Directive:
    """A directive with the validations by which a run can be stopped, if it is one of such a run's committed steps."""
    if state.course is None or not directive.phase.committed:
        return directive
    begin, n_steps = state.committed_steps, directive.n_steps
    planned = begin + (n_steps if state.remaining_steps is None else max(state.remaining_steps, n_steps))
    apart = max(math.ceil(VALIDATION_SHARE * planned), FEWEST_STEPS_APART)
    steps = {*directive.validate_at, *range(apart - begin % apart, n_steps + 1, apart)}
    if begin == 0 and state.course.opening is None:
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
    if course is None or wanted is None or not state.present_lr or before.course is None:
        return None
    if course.points[-1:] == before.course.points[-1:] or len(course.points) < IN_A_ROW:
        return None
    rest = before.directive.after(report.n_steps) if report.n_steps < before.directive.n_steps else None
    n_steps = _annealing(course.now, state.present_lr, state.peak_lr or state.present_lr)
    ahead = course.now.step if state.remaining_steps is None else state.remaining_steps
    if ahead - n_steps < SMALLEST_SAVING * (course.now.step + ahead):
        return None
    planned = _planned_end(state, course.now, rest, ahead)
    latest = None
    for count in range(len(course.points) - IN_A_ROW + 1, len(course.points) + 1):
        points = course.points[:count]
        latest = _judged(points, planned, state.peak_lr or state.present_lr)
        worth = None if latest is None else _worth(wanted, course, latest)
        if latest is None or worth is None or latest.gain + SURENESS * latest.sd > worth:
            return None
    assert latest is not None
    assert worth is not None
    evidence = _evidence(latest, worth, course, state, ahead)
    change = PlanChange(
        kind=ChangeKind.ANNEAL, anneal_steps=n_steps, origin=ChangeOrigin.POLICY, reason=_reason(evidence)
    )
    return Verdict(change, evidence)


def after_change(course: LossCourse | None, change: PlanChange) -> LossCourse | None:
    """What is kept of a course when a change of the plan takes effect."""
    if course is None or change.kind in (ChangeKind.ANNEAL, ChangeKind.UNDO_ANNEALING):
        return None
    return course.anew if change.kind is ChangeKind.REPLAN else course


def _annealing(place: Place, lr: float, peak: float) -> int:
    """Steps of the shortest sensible annealing from an LR."""
    whole = place.step * COOLDOWN / (1.0 - COOLDOWN)
    return max(round(whole * min(lr / peak, 1.0)), SHORTEST_ANNEALING)


def _planned_end(state: JobState, now: Place, rest: Directive | None, ahead: int) -> Place:
    """Where the run would be at its planned end: the rest of its directive, then the LR held, and a cooldown.

    What comes after the directive is the policy's secret. That the LR is held as long as possible is the assumption by
    which going on gains most.
    """
    cooldown = max(round(COOLDOWN * (now.step + ahead)), 1)
    place, left = now, ahead
    if rest is not None and rest.profile is not None:
        n_steps = min(rest.n_steps, ahead if state.remaining_steps is not None else max(ahead - cooldown, 0))
        place, left = place.after(rest.profile, n_steps), ahead - n_steps
        if rest.average is not None:
            return place.settled()
    if left == 0:
        return place
    lr, held = place.lr or 0.0, max(left - cooldown, 0)
    if held:
        place = place.onward(lr, held)
    return place.after(Profile.to_zero(Shape.LINEAR, lr, left - held), left - held)


def _judged(points: Sequence[Point], planned: Place, peak: float) -> Gain | None:
    """What going on from the last of some validations to the planned end gains; None: nobody can tell."""
    place = points[-1].place
    lr = place.lr or 0.0
    n_steps = _annealing(place, lr, peak)
    at_once = place.after(Profile.to_zero(Shape.LINEAR, lr, n_steps), n_steps)
    used, momenta = _used(points), _momenta(place)
    return gain(
        [point.place.areas(momenta) for point in used],
        [point.loss for point in used],
        at_once.areas(momenta),
        planned.areas(momenta),
    )


def _used(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.place.step >= SETTLED * points[-1].place.step]


def _momenta(place: Place) -> int:
    """How many of the memories are short enough for the steps so far."""
    return max(sum(memory <= LONGEST_MEMORY * place.step for memory in MEMORIES), 1)


def _worth(wanted: StopWhen, course: LossCourse, found: Gain) -> float | None:
    """What is still worth going on for, as a loss; None: the run has gained nothing yet."""
    if wanted.gain is not None:
        return wanted.gain
    assert wanted.share is not None
    opening = course.points[0].loss if course.opening is None else course.opening
    gained = opening - found.at_once
    return wanted.share * gained if gained > 0 else None


def _evidence(found: Gain, worth: float, course: LossCourse, state: JobState, ahead: int) -> Stopping:
    used = _used(course.points)
    freed = [point.loss + found.annealing * point.place.annealed[found.momentum] for point in used]
    walked = [point.place.walked for point in used]
    trend = learning_trend.fit(walked, [-loss for loss in freed])
    last = course.points[-OBSERVATIONS:]
    return Stopping(
        worth=worth,
        gain=found.gain,
        gain_sd=found.sd,
        at_once=found.at_once,
        at_end=found.at_end,
        end_step=course.now.step + ahead,
        open_ended=state.remaining_steps is None,
        floor=found.floor,
        scale=found.scale,
        exponent=found.exponent,
        annealing=found.annealing,
        memory=MEMORIES[found.momentum],
        layer=trend.layer(walked[-1]),
        steps=tuple(point.place.step for point in last),
        losses=tuple(point.loss for point in last),
    )


def _reason(evidence: Stopping) -> str:
    """Why the run is stopped, in words."""
    onward = "as many steps again" if evidence.open_ended else f"going on to {evidence.end_step} committed steps"
    return (
        f"{onward} would gain {evidence.gain:.2g} with a standard error of {evidence.gain_sd:.1g}, "
        f"no more than the {evidence.worth:.2g} that is worth it"
    )
