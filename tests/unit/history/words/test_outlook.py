from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.annealing_training import AnnealingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tuner_server.core.job import machine
from tuner_server.core.laws.curve import UnfittableError
from tuner_server.history.committed_run import CommittedRun, Piece
from tuner_server.history.thinning import FloatArray
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.outlook import annealing_now, forecast, outlook, outlook_of_job, planned_rest

HALF_WAY = 22
"""Directives after which a job of policy budget is about half-way through its decay."""


@pytest.fixture(scope="module", params=[False, True])
def validates(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture(scope="module")
def run(validates: bool) -> Run:
    job = job_config("planted", validates=validates)
    return drive(job, AnnealingTraining(validates=validates), max_directives=HALF_WAY)


@pytest.fixture(scope="module")
def found(run: Run) -> Timeline:
    return timeline(history(run))


def _true_end(validates: bool, pieces: list[Piece]) -> float:
    """What the training really comes to."""
    training = AnnealingTraining(validates=validates, noise=0.0)
    drive(job_config("planted", validates=validates), training, max_directives=HALF_WAY)
    for piece in pieces:
        for step in range(piece.n_steps):
            training._step(piece.profile.lr(step))
    return training.loss()


def test_the_rest_of_the_plan_and_an_annealing_end_where_they_are_forecast(
    run: Run, found: Timeline, validates: bool
) -> None:
    said = outlook_of_job(run.state, found)
    assert said is not None
    assert said.observed == "training loss"  # four validations are no curve
    for one in (said.planned, said.annealed):
        assert one is not None
        assert abs(one.loss - _true_end(validates, list(one.pieces))) < 3 * one.error
        assert one.error < 0.1
        assert one.curve[-1] == pytest.approx(one.loss)
    assert said.annealed is not None
    assert said.annealed.n_steps == round(run.state.committed_steps / 10)
    assert said.planned is not None
    assert said.planned.n_steps == run.state.directive.n_steps
    assert said.annealed.value in said.words
    assert said.planned.value in said.words
    assert f"momentum {said.law.momentum:g}" in said.formula
    assert said.annealed.words.endswith("to 0 along a line")


def test_a_whole_run_can_be_forecast_from_its_start(found: Timeline) -> None:
    known = found.committed_run
    one = forecast(known, [Piece(Profile.to_zero(Shape.COSINE, 0.2, 3000), 3000)], from_start=True)
    assert (one.n_steps, one.end_step) == (3000, 3000)
    training = AnnealingTraining(noise=0.0)
    for step in range(3000):
        training._step(one.pieces[0].profile.lr(step))
    assert abs(one.loss - training.loss()) < 3 * one.error


def test_nothing_is_forecast_above_the_lrs_that_were_seen(found: Timeline) -> None:
    known = found.committed_run
    high = Profile.to_zero(Shape.LINEAR, 1.01 * known.highest_lr, 100)
    with pytest.raises(UnfittableError, match="highest that the run has seen"):
        forecast(known, [Piece(high, 100)])
    rising = Piece(Profile(Shape.LINEAR, 0.1, 1.0, 100), 100)
    assert outlook(known, rising).planned is None


@pytest.mark.parametrize("max_directives", [0, 5, 12])
def test_a_job_that_tells_too_little_has_no_outlook(max_directives: int) -> None:
    early = drive(job_config("planted"), AnnealingTraining(validates=True), max_directives=max_directives)
    assert outlook_of_job(early.state, timeline(history(early))) is None


def test_a_job_that_has_ended_has_none(run: Run, found: Timeline) -> None:
    assert outlook_of_job(machine.cancel(run.state, ""), found) is None
    ended = drive(job_config("planted"), SimulatedTraining(validates=True))
    assert outlook_of_job(ended.state, timeline(history(ended))) is None
    assert planned_rest(ended.state) is None
    assert annealing_now(timeline(history(ended)).committed_run) is None


def _run_of(losses: FloatArray) -> CommittedRun:
    pieces = (Piece(Profile.to_zero(Shape.LINEAR, 0.1, losses.size), losses.size),)
    return CommittedRun(pieces, losses, np.zeros(0), np.zeros(0))


def test_where_the_law_explains_little_nothing_is_forecast() -> None:
    noise = np.random.default_rng(0).normal(1.0, 0.1, 1000)
    with pytest.raises(
        UnfittableError, match=r"evidence is too thin: the law explains .* of the variance of 60 losses"
    ):
        outlook(_run_of(noise), None)


@pytest.mark.parametrize(("shift", "value"), [(0.0, "below 0.24"), (-2.0, "−0.06 ± 0.24")])
def test_where_all_losses_were_above_zero_none_below_it_is_told(shift: float, value: str) -> None:
    losses = 1.0 + 2.0 * np.arange(1.0, 1001.0, dtype=np.float64) ** -0.5 + shift
    one = forecast(_run_of(losses), [Piece(Profile.constant(0.1, 100), 100)])
    assert one.positive == (shift == 0)
    assert dataclasses.replace(one, loss=-0.06, error=0.24).value == value


def test_at_one_lr_it_is_not_known_what_a_fall_brings() -> None:
    training = AnnealingTraining()
    losses = [training._step(0.1) for _ in range(1000)]
    pieces = (Piece(Profile.constant(0.1, 2000), 1000),)
    known = CommittedRun(pieces, np.array(losses), np.zeros(0), np.zeros(0))
    said = outlook(known, Piece(Profile.constant(0.1, 1000), 1000))
    assert said.annealed is not None
    assert not said.annealed.told
    assert not said.is_clear(said.annealed)
    assert "the LR has not fallen yet" in said.words
    assert said.planned is not None
    assert said.planned.loss == pytest.approx(0.5 + 0.6 * 200**-0.4, abs=3 * said.planned.error)
    assert "momentum" not in said.formula
