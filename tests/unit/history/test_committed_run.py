from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lrpilot.wire.phase import Phase
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Probe, Replan, ScheduleData, Segment, Validation

from tests.support.jobs.annealing_training import AnnealingTraining
from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import drive
from tuner_server.core.laws.curve import UnfittableError
from tuner_server.core.messages import Outcome
from tuner_server.core.messages import Phase as TrainPhase
from tuner_server.history.committed_run import MOST_SAMPLES, CommittedRun, Piece
from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.stage import Span
from tuner_server.history.timeline import timeline

RISE, DECAY = Profile.constant(0.1, 300), Profile.to_zero(Shape.LINEAR, 0.1, 500, warmup=50)


def _run(*pieces: Piece, n_losses: int | None = None, **values: object) -> CommittedRun:
    n_steps = sum(piece.n_steps for piece in pieces)
    losses = np.linspace(2.0, 1.0, n_steps if n_losses is None else n_losses)
    run = CommittedRun(pieces, losses, np.zeros(0), np.zeros(0))
    return dataclasses.replace(run, **values)  # type: ignore[arg-type]  # any of its fields


def test_a_job_and_its_file_are_the_same_run() -> None:
    run = drive(job_config("planted"), AnnealingTraining(validates=True), max_directives=22)
    entries = history(run)
    here, file = timeline(entries).committed_run, CommittedRun.of_schedule(data_of_schedule(stored(run.state), entries))
    assert here.n_steps == file.n_steps == run.state.committed_steps
    np.testing.assert_array_equal(here.losses, file.losses)
    np.testing.assert_array_equal(here.validated, file.validated)
    np.testing.assert_array_equal(here.path().lrs, file.path().lrs)
    assert [branch.start for branch in here.branches] == [branch.start for branch in file.branches]
    assert here.lr == file.lr == run.state.directive.profile.lr(0)  # type: ignore[union-attr]


def test_its_path_has_the_lrs_of_its_steps_and_of_those_that_may_follow() -> None:
    run = _run(Piece(DECAY, 200))
    path = run.path([Piece(Profile.to_zero(Shape.LINEAR, 0.05, 10), 10)])
    assert path.lrs.tolist() == pytest.approx([*map(DECAY.lr, range(200)), *np.linspace(0.05, 0.005, 10)])
    assert path.warmup == 50
    assert run.path(until=30).lrs.tolist() == [*map(DECAY.lr, range(30))]
    assert run.lr == DECAY.lr(200)
    assert run.highest_lr == pytest.approx(0.1)


def test_a_long_path_is_read_at_some_steps_and_reaches_the_last() -> None:
    long = Profile.to_zero(Shape.COSINE, 0.1, 1_000_001)
    path = _run(Piece(long, 1_000_001), n_losses=0).path()
    assert path.lrs.size <= MOST_SAMPLES + 2
    assert path.end >= 1_000_000
    assert np.interp(500_000, path.steps, path.lrs) == pytest.approx(0.05, rel=1e-3)


def test_training_losses_are_averaged_from_after_the_warm_up() -> None:
    run = _run(Piece(DECAY, 500))
    curve = run.curve()
    assert not run.of_validations
    assert curve.steps.size == 60
    assert curve.steps[0] > 50
    np.testing.assert_allclose(curve.losses, np.interp(curve.steps, np.arange(500), run.losses), rtol=1e-9)


def test_losses_that_are_no_number_are_left_out() -> None:
    losses = np.full(500, 1.0)
    losses[::2] = np.nan
    losses[400:] = np.inf
    curve = _run(Piece(DECAY, 500), losses=losses).curve()
    assert curve.steps.max() < 400
    assert (curve.losses == 1.0).all()


def test_validations_are_fitted_where_there_are_enough_over_the_run() -> None:
    run, seen = _run(Piece(DECAY, 500)), np.arange(19.0, 500.0, 20.0)
    assert _run(Piece(DECAY, 500), validated=seen, validations=1 + 0 * seen).of_validations
    assert not _run(Piece(DECAY, 500), validated=seen[:11], validations=1 + 0 * seen[:11]).of_validations
    late = seen[-12:]
    assert not dataclasses.replace(run, validated=late, validations=1 + 0 * late).of_validations
    one_nan = np.where(seen == 219, np.nan, 1.0)
    curve = dataclasses.replace(run, validated=seen, validations=one_nan).curve()
    assert 219 not in curve.steps
    assert curve.steps.min() > 50


def test_other_data_begin_anew() -> None:
    replans = (Replan(300, ChangeKind.REPLAN, ChangeOrigin.CLIENT), Replan(400, ChangeKind.EXTEND, ChangeOrigin.CLIENT))
    data = ScheduleData(
        job_id="0",
        name="",
        policy="budget",
        base_lrs=(0.1,),
        total_steps=None,
        segments=(Segment(0, 800, Profile.constant(0.1, 800), Phase.TRAIN, 0),),
        losses=(1.0,) * 800,
        validations=(Validation(800, 0.5),),
        replans=replans,
    )
    run = CommittedRun.of_schedule(data)
    assert run.comparable_from == 300
    assert run.curve().steps.min() > 300
    assert run.validated.tolist() == [799]


def test_falls_that_were_rolled_back_are_branches_if_they_were_sound() -> None:
    decay = Profile.to_zero(Shape.LINEAR, 0.1, 40)
    probes = (
        Probe(200, 40, decay, Phase.PROBE, 0, (1.0,) * 40, (), diverged=False),
        Probe(200, 40, Profile.constant(0.1, 40), Phase.PROBE, 0, (1.0,) * 40, (), diverged=False),
        Probe(200, 40, decay, Phase.PROBE, 0, (1.0,) * 40, (), diverged=True),
        Probe(200, 0, decay, Phase.PROBE, 0, (), (), diverged=False),
    )
    data = ScheduleData(
        "0", "", "budget", (0.1,), None, (Segment(0, 300, RISE, Phase.TRAIN, 0),), (1.0,) * 300, probes=probes
    )
    (branch,) = CommittedRun.of_schedule(data).branches
    assert (branch.start, branch.losses.size) == (200, 40)


def _span(start: int, committed: int, profile: Profile, n_steps: int, *, kept: bool, outcome: Outcome) -> Span:
    losses = 1 + 1 / np.arange(start + 1, start + 1 + n_steps)
    return Span(start, committed, kept, TrainPhase.TRAIN, 0, outcome, profile, losses.astype(np.float32), ())


def test_an_annealing_that_was_undone_tells_what_a_fall_brings() -> None:
    plateau, fall = Profile.constant(0.1, 900), Profile.to_zero(Shape.LINEAR, 0.1, 100)
    spans = [
        _span(0, 0, plateau, 400, kept=True, outcome=Outcome.COMPLETED),
        _span(400, 400, fall, 60, kept=False, outcome=Outcome.PARTIAL),
        _span(460, 400, fall.after(60), 40, kept=False, outcome=Outcome.COMPLETED),
        _span(500, 400, Profile.to_zero(Shape.LINEAR, 0.1, 50), 20, kept=False, outcome=Outcome.DIVERGED),
        _span(520, 400, plateau, 300, kept=True, outcome=Outcome.COMPLETED),
    ]
    run = CommittedRun.of_spans(spans)
    (branch,) = run.branches
    assert (branch.start, branch.losses.size, len(branch.pieces)) == (400, 100, 2)
    assert run.law.annealing_known
    assert run.law.n_points == 68
    assert not dataclasses.replace(run, branches=()).law.annealing_known
    assert CommittedRun.of_spans(spans, 520).branches == ()


@pytest.mark.parametrize(("n_steps", "reason"), [(0, "no step is committed"), (60, "it takes 100")])
def test_too_few_steps_tell_nothing(n_steps: int, reason: str) -> None:
    run = _run(Piece(DECAY, n_steps)) if n_steps else _run()
    with pytest.raises(UnfittableError, match=reason):
        _ = run.law
    assert run.lr >= 0
