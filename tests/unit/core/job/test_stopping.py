"""Runs that end because going on is not worth it: when, when not, and what the job's books say."""

from __future__ import annotations

from typing import Any

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.law_training import LawTraining
from tests.support.jobs.simulated_training import Run, drive
from tuner_server.core.config import JobConfig, LrBounds, StopWhen
from tuner_server.core.job import machine
from tuner_server.core.job.loss_course import LossCourse, Point
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import (
    BatchSource,
    ChangeKind,
    ChangeOrigin,
    Outcome,
    Phase,
    PlanChange,
    Replacement,
    Report,
    Validation,
)
from tuner_server.core.stop_evidence import Stopping

TOTAL = 2000


def config(
    policy: str = "budget",
    total_steps: int | None = TOTAL,
    *,
    gain: float | None = None,
    share: float | None = None,
    **options: Any,
) -> JobConfig:
    """A job whose best LR is the highest one of its range; with neither a gain nor a share, it is not stopped."""
    worth = None if gain is None and share is None else StopWhen(gain=gain, share=share)
    return JobConfig(
        policy=policy,
        policy_options=options,
        total_steps=total_steps,
        lr_bounds=LrBounds(min=0.01, max=0.1),
        base_lr=0.1,
        has_validation=True,
        stop_when=worth,
    )


def training(**law: Any) -> LawTraining:
    return LawTraining(**{"scale": 1.0, "alpha": 0.5, "annealing": 0.02} | law)


def evidence(run: Run) -> list[Stopping]:
    decisions = (exchange.decision for exchange in run.exchanges)
    return [decision.stopping for decision in decisions if decision is not None and decision.stopping is not None]


def whole(config: JobConfig, **law: Any) -> tuple[int, float]:
    """The committed steps of the same run without stop_when, and the loss at its end."""
    trained = training(**law)
    run = drive(config.model_copy(update={"stop_when": None}), trained)
    return run.state.committed_steps, trained.loss()


CONSTANT = {"budget": {}, "open_ended": {}, "autolrs": {"tau": 200, "tau_prime": 20, "candidates": 3}}


@pytest.mark.parametrize("policy", CONSTANT)
def test_a_run_that_would_gain_too_little_is_annealed_and_ends(policy: str) -> None:
    wanted, trained = config(policy, gain=0.05, **CONSTANT[policy]), training()
    run = drive(wanted, trained)
    steps, loss = whole(wanted)
    assert run.state.status is Status.FINISHED
    [found] = evidence(run)
    change = next(d.change for d in run.directives if d.change is not None)
    assert (change.kind, change.origin) == (ChangeKind.ANNEAL, ChangeOrigin.POLICY)
    assert change.anneal_steps is not None
    assert run.state.committed_steps < 0.95 * steps
    assert run.state.run_steps == run.state.total_steps
    assert trained.lrs[-1] < 0.1 * trained.lrs[-change.anneal_steps]  # it is annealed, and not cut off
    assert trained.loss() - loss < 0.05  # what was promised
    assert found.gain + 1.64 * found.gain_sd <= found.worth == 0.05


def test_the_evidence_has_what_was_seen_and_says_it_in_words() -> None:
    run = drive(config(gain=0.05), training())
    [found] = evidence(run)
    validations: dict[int, float] = {}
    step = 0
    for exchange in run.exchanges:
        report = exchange.report
        if report is not None and exchange.directive.phase.committed:
            validations |= {step + v.step: v.loss for v in report.validations}
            step += report.n_steps
    assert dict(zip(found.steps, found.losses, strict=True)).items() <= validations.items()
    assert len(found.steps) == 10
    assert found.end_step == whole(config())[0]
    assert found.layer > 0
    [stopped] = [e for e in run.exchanges if e.decision is not None and e.decision.stopping is not None]
    assert f"going on to {found.end_step} committed steps would gain {found.gain:.2g}" in stopped.directive.reason


def test_what_is_worth_it_is_gained_first() -> None:
    ends = [drive(config(gain=worth), training()).state.committed_steps for worth in (0.2, 0.05, 0.01, 1e-9)]
    assert ends == sorted(ends)
    assert len(set(ends)) >= 3
    assert ends[-1] == whole(config())[0]


def test_a_share_is_of_what_the_run_has_gained() -> None:
    [found] = evidence(drive(config(share=0.03), training()))
    assert found.worth == pytest.approx(0.03 * (training().loss() - found.losses[-1]), rel=0.1)


@pytest.mark.parametrize(("shift", "factor"), [(-50.0, 1.0), (3.0, 1000.0)])
def test_a_share_is_the_same_whatever_the_losses_are_counted_in(shift: float, factor: float) -> None:
    plain, moved = (drive(config(share=0.03), training(**law)) for law in ({}, {"shift": shift, "factor": factor}))
    assert evidence(plain)
    assert moved.state.committed_steps == pytest.approx(plain.state.committed_steps, abs=0.05 * TOTAL)
    assert evidence(moved)[0].gain == pytest.approx(factor * evidence(plain)[0].gain, rel=0.25)


def test_a_plateau_is_no_reason_to_stop_while_the_decay_is_still_to_bring_more() -> None:
    """The loss of the plateau is flat early on; what is left is what falls of the LR bring, over some 300 steps."""
    law = {"alpha": 2.0, "annealing": 0.03, "memory": 50, "noise": 1e-3}
    wanted, trained = config("open_ended", gain=0.02, plateau_exponent=0.0), training(**law)
    seen: list[Transition] = [machine.create(wanted)]
    while seen[-1].directive.phase is not Phase.STOP and seen[-1].directive.change is None:
        seen.append(machine.advance(seen[-1].state, trained.run(seen[-1].directive)))
    assert seen[-1].state.committed_steps > 800
    course = next(transition.state.course for transition in seen if transition.state.committed_steps > 700)
    assert course is not None
    losses = [point.loss for point in course.points if point.step > 350]
    assert max(losses) - min(losses) < 0.02
    finished(seen[-1], trained)
    assert trained.loss() - whole(wanted, **law)[1] < 0.02


def test_a_run_without_an_end_ends_when_as_many_steps_again_would_gain_too_little() -> None:
    trained = training()
    run = drive(config("open_ended", None, gain=0.05, first_stage=200), trained, max_directives=400)
    assert run.state.status is Status.FINISHED
    [found] = evidence(run)
    assert found.open_ended
    lr = trained.lrs[-run.directives[-2].n_steps - 1]
    assert lr > 0
    assert trained.lrs[-1] < 0.1 * max(trained.lrs)


def test_jobs_that_are_not_to_be_stopped_are_as_ever() -> None:
    run = drive(config(), training())
    assert run.state.course is None
    assert all(len(directive.validate_at) <= 22 for directive in run.directives)


def test_validations_are_fiftieths_of_the_run() -> None:
    run = drive(config(gain=1e-9), training())
    decay = next(d for d in run.directives if d.phase is Phase.TRAIN)
    assert 50 <= len(decay.validate_at) <= 50 + 20
    assert run.state.course is not None
    assert run.state.course.n_steps == run.state.committed_steps


def test_a_run_too_short_for_a_search_validates_before_its_first_step() -> None:
    transition = machine.create(config(total_steps=300, gain=0.01))
    assert transition.directive.phase is Phase.TRAIN
    assert transition.directive.validate_at[:2] == (0, 10)


# --- purity -----------------------------------------------------------------------------------------------------------


def test_the_same_reports_give_the_same_end_from_json_and_by_replay() -> None:
    wanted, trained = config(gain=0.05), training()
    transition, reports = machine.create(wanted), []
    while transition.directive.phase is not Phase.STOP:
        report = trained.run(transition.directive)
        reports.append(report)
        state = JobState.model_validate_json(transition.state.model_dump_json())
        assert state == transition.state
        transition = machine.advance(state, report)
        assert machine.advance(state, report) == transition  # a retry
    assert evidence(drive(wanted, training()))
    assert machine.replay(wanted, reports).state == transition.state


def test_losses_far_from_any_number_do_not_fail_the_job() -> None:
    class Huge(LawTraining):
        def _validation(self, directive: Any, step: int) -> list[Validation]:
            loss = 3e38 * (-1) ** step
            return [Validation(step=step, loss=loss)] if step in directive.validate_at else []

    assert drive(config(gain=0.05), Huge(scale=1.0)).state.status is Status.FINISHED


# --- changes of the plan ----------------------------------------------------------------------------------------------


def stopped(**law: Any) -> tuple[Transition, LawTraining]:
    """A job whose annealing has begun, as going on was not worth it."""
    trained = training(**law)
    transition = machine.create(config(gain=0.05))
    while transition.decision is None or transition.decision.stopping is None:
        transition = machine.advance(transition.state, trained.run(transition.directive))
    return transition, trained


def replanned(transition: Transition, n: int, **change: Any) -> Transition:
    report = Report(
        directive_number=transition.directive.number,
        outcome=Outcome.REPLANNED,
        losses=(1.0,) * n,
        change=PlanChange(**change),
    )
    return machine.advance(transition.state, report)


def finished(transition: Transition, trained: LawTraining) -> JobState:
    while transition.directive.phase is not Phase.STOP:
        transition = machine.advance(transition.state, trained.run(transition.directive))
        assert transition.decision is None or transition.decision.stopping is None
    return transition.state


def test_who_undoes_the_annealing_has_decided_to_go_on() -> None:
    transition, trained = stopped()
    undone = replanned(transition, 5, kind=ChangeKind.UNDO_ANNEALING)
    assert undone.state.total_steps == TOTAL
    assert finished(undone, trained).run_steps == TOTAL


def test_who_extends_a_run_that_was_stopped_has_decided_to_go_on() -> None:
    transition, trained = stopped()
    while transition.directive.phase is not Phase.STOP:
        transition = machine.advance(transition.state, trained.run(transition.directive))
    extended = replanned(transition, 0, kind=ChangeKind.EXTEND, total_steps=3000)
    assert finished(extended, trained).run_steps == 3000


def test_a_client_that_has_not_heard_of_the_annealing_hears_of_it_again() -> None:
    transition, _ = stopped()
    change = transition.directive.change
    assert change is not None
    alone = Report(
        directive_number=transition.directive.number,
        outcome=Outcome.REPLACED,
        losses=(1.0,) * 10,
        replacement=Replacement(profile=Profile.constant(0.01, 10)),
    )
    again = machine.advance(transition.state, alone).directive.change
    assert again is not None
    assert (again.kind, again.anneal_steps, again.reason) == (change.kind, change.anneal_steps, change.reason)


def test_a_client_that_came_to_its_end_by_itself_is_not_annealed_beyond_it() -> None:
    transition, _ = stopped()
    left = TOTAL - transition.state.run_steps
    alone = Report(
        directive_number=transition.directive.number,
        outcome=Outcome.REPLACED,
        losses=(1.0,) * left,
        replacement=Replacement(profile=Profile.to_zero(Shape.LINEAR, 0.01, left)),
    )
    ended = machine.advance(transition.state, alone)
    assert (ended.state.status, ended.state.run_steps) == (Status.FINISHED, TOTAL)


def test_other_data_begin_another_curve() -> None:
    trained = training()
    transition = machine.create(config(gain=1e-9))
    while transition.state.committed_steps < 500:
        transition = machine.advance(transition.state, trained.run(transition.directive))
    assert transition.state.course is not None
    assert len(transition.state.course.points) > 5
    transition = replanned(transition, 5, kind=ChangeKind.REPLAN)
    assert transition.state.course is not None
    assert transition.state.course.points == ()
    while transition.directive.phase is not Phase.TRAIN:
        transition = machine.advance(transition.state, trained.run(transition.directive))
    assert transition.state.course is not None
    assert transition.state.course.begins == transition.state.committed_steps


def test_what_is_rolled_back_is_no_part_of_the_curve() -> None:
    trained = training()
    transition = machine.create(config(gain=1e-9))
    while transition.state.committed_steps < 500:
        transition = machine.advance(transition.state, trained.run(transition.directive))
    failed = Report(directive_number=transition.directive.number, outcome=Outcome.DIVERGED, losses=(1.0, float("nan")))
    again = machine.advance(transition.state, failed).state
    assert again.course is not None
    assert (again.committed_steps, again.course.n_steps, again.course.points) == (0, 0, ())
    assert again.first_validation is not None


# --- the curve --------------------------------------------------------------------------------------------------------


def reported(n: int, *validations: tuple[int, float]) -> Report:
    return Report(
        directive_number=1,
        outcome=Outcome.PARTIAL,
        losses=(1.0,) * n,
        validations=tuple(Validation(step=step, loss=loss) for step, loss in validations),
    )


def test_a_course_of_many_steps_stays_small_and_keeps_its_shape() -> None:
    profile = Profile.to_zero(Shape.LINEAR, 0.1, 100_000, warmup=5000)
    course, rest = LossCourse(), profile
    for step in range(0, 100_000, 500):
        course = course.after(reported(500, (250, 2.0 - step * 1e-5), (500, 1.0)), rest)
        rest = rest.after(500)
    assert (course.n_steps, course.warmup) == (100_000, 5000)
    assert len(course.model_dump_json()) < 15_000
    assert [point.step for point in course.points[-4:]] == [99_250, 99_500, 99_750, 100_000]
    path = course.path()
    assert path.area()[-1] == pytest.approx(0.1 * 5000 + 0.1 * 95_000 / 2, rel=1e-2)
    assert path.annealing_area(0.99)[-1] == pytest.approx(0.1 * 100, rel=2e-2)


def test_losses_that_are_no_numbers_are_left_out() -> None:
    course = LossCourse().after(reported(20, (0, 3.0), (10, float("nan")), (20, 2.0)), Profile.constant(0.1, 20))
    assert course.points == (Point(step=20, loss=2.0),)


def test_batches_are_replayed_in_an_annealing_as_ever() -> None:
    transition, _ = stopped()
    assert transition.directive.batches is BatchSource.REPLAYED
    assert transition.directive.snapshot
