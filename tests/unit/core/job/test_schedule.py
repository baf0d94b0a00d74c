"""The schedule as a fold over the history: it is what the client has in its model."""

from __future__ import annotations

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.simulated_training import QUICK, Exchange, Run, SimulatedTraining, config, drive
from tuner_server.core.job import machine, schedule
from tuner_server.core.messages import Directive, Outcome, Phase, Replacement, Report


def lrs(segments: list[schedule.Segment]) -> list[float]:
    return [segment.profile.lr(step) for segment in segments for step in range(segment.n_steps)]


def assert_fold_is_the_model(run: Run, training: SimulatedTraining) -> None:
    segments = list(schedule.Outline.of(run.exchanges).segments)
    assert lrs(segments) == training.lrs
    assert sum(segment.n_steps for segment in segments) == run.state.committed_steps
    starts = [segment.start_step for segment in segments]
    assert starts == [sum(segment.n_steps for segment in segments[:i]) for i in range(len(segments))]


def train(n_steps: int, lr: float = 0.1, *, restore: bool = False, snapshot: bool = False) -> Directive:
    profile = Profile.constant(lr, n_steps)
    return Directive(phase=Phase.TRAIN, n_steps=n_steps, profile=profile, restore=restore, snapshot=snapshot)


def exchange(directive: Directive, outcome: Outcome | None = Outcome.COMPLETED, n: int | None = None) -> Exchange:
    if outcome is None:
        return Exchange(directive, None, None)
    losses = (1.0,) * (directive.n_steps if n is None else n)
    return Exchange(directive, None, Report(directive_number=1, outcome=outcome, losses=losses))


def test_no_history_no_schedule() -> None:
    assert list(schedule.Outline.of([]).segments) == []
    assert list(schedule.Outline.of([exchange(train(5), None)]).segments) == []


def test_parts_are_put_together() -> None:
    whole = train(100, snapshot=True)
    first, second = whole.after(30), whole.after(30).after(50)
    entries = [
        exchange(whole, Outcome.PARTIAL, 30),
        exchange(first, Outcome.PARTIAL, 50),
        exchange(second),
        exchange(train(7, 0.2)),
    ]
    assert list(schedule.Outline.of(entries).segments) == [
        schedule.Segment(0, 100, Profile.constant(0.1, 100), Phase.TRAIN, 0),
        schedule.Segment(100, 7, Profile.constant(0.2, 7), Phase.TRAIN, 0),
    ]


def test_the_same_lr_in_the_next_directive_is_a_segment_of_its_own() -> None:
    assert len(list(schedule.Outline.of([exchange(train(5)), exchange(train(5))]).segments)) == 2


def test_a_divergence_takes_back_all_since_the_snapshot() -> None:
    lost = train(100, snapshot=True)
    entries = [
        exchange(train(5, snapshot=True)),
        exchange(lost, Outcome.PARTIAL, 30),
        exchange(lost.after(30), Outcome.DIVERGED, 3),
        exchange(train(9, restore=True), None),
    ]
    assert schedule.committed(entries[:2]) == [True, True]
    assert schedule.committed(entries) == [True, False, False, False]


def test_steps_of_the_clients_own_take_the_place_of_a_directive() -> None:
    own = Replacement(profile=Profile(Shape.LINEAR, 0.4, 0.0, 40))
    report = Report(directive_number=1, outcome=Outcome.REPLACED, losses=(1.0,) * 4, replacement=own)
    nothing = Report(directive_number=1, outcome=Outcome.REPLACED, losses=(), replacement=Replacement(wasted_steps=3))
    history = [
        exchange(train(5, 0.1, snapshot=True)),
        Exchange(train(9, 0.2, restore=True), None, nothing),
        Exchange(train(9, 0.2, snapshot=True), None, report),
        exchange(train(2, 0.3, snapshot=True)),
        exchange(train(8, 0.5), Outcome.DIVERGED, 3),
        exchange(train(3, 0.1, restore=True)),
    ]
    assert lrs(list(schedule.Outline.of(history).segments)) == pytest.approx([0.4, 0.39, 0.38, 0.37] + [0.1] * 3)


def test_a_restore_comes_before_a_snapshot_of_the_same_directive() -> None:
    entries = [
        exchange(train(5, snapshot=True)),
        exchange(train(6, restore=True, snapshot=True)),
        exchange(train(7, restore=True)),
    ]
    assert schedule.committed(entries) == [False, False, True]


@hypothesis.given(
    seed=st.integers(0, 2**16),
    best=st.floats(1e-4, 1.0),
    edge=st.floats(1e-3, 10.0),
    bounds=st.booleans(),
    warmup_steps=st.sampled_from([0, 60]),
    stop_after=st.integers(0, 60),
)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_fold_is_what_the_client_has_in_its_model(
    seed: int, best: float, edge: float, bounds: bool, warmup_steps: int, stop_after: int
) -> None:
    """At any time; an outstanding directive has not run, but what it restores is back already."""
    options = QUICK | {"tau": 120, "warmup_steps": warmup_steps}
    options["tau_max"] = 240
    asked = config(700, bounds=bounds, **options).model_copy(update={"seed": seed})
    training = SimulatedTraining(seed, best_lr=best, edge_lr=edge)
    run = drive(asked, training, max_directives=stop_after)
    training.prepare(run.state.directive)
    assert_fold_is_the_model(run, training)


def test_fold_of_a_run_that_diverges_in_committed_steps_now_and_then() -> None:
    training = SimulatedTraining(edge_lr=1e9)
    transition = machine.create(config(3000, **QUICK | {"tau": 120, "tau_max": 480}))
    exchanges: list[Exchange] = []
    while transition.directive.phase is not Phase.STOP:
        report = training.run(transition.directive)
        if transition.directive.phase.committed and transition.directive.number % 7 == 0:
            report = report.model_copy(update={"outcome": Outcome.DIVERGED, "validations": ()})
        exchanges.append(Exchange(transition.directive, transition.decision, report))
        transition = machine.advance(transition.state, report)
    training.prepare(transition.directive)
    run = Run(transition.state, [*exchanges, Exchange(transition.directive, None, None)])
    assert any(e.report and e.report.outcome is Outcome.DIVERGED for e in exchanges)
    assert_fold_is_the_model(run, training)
    assert training.n_run == 3000


def test_a_cancelled_job_keeps_what_was_committed() -> None:
    run = drive(config(400, **QUICK), training := SimulatedTraining(), max_directives=5)
    state = machine.cancel(run.state, "enough")
    report = training.run(state.directive)
    stopped = machine.advance(state, report)
    training.prepare(stopped.directive)
    last = dataclasses.replace(run.exchanges[-1], report=report)
    entries = [*run.exchanges[:-1], last, Exchange(stopped.directive, None, None)]
    assert lrs(list(schedule.Outline.of(entries).segments)) == training.lrs
