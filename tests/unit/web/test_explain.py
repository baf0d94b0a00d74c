from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.support.shown import history, job_config
from tests.support.simulated import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core import job
from tuner_server.core.job import Status
from tuner_server.core.messages import Candidate
from tuner_server.web.explain import Tone, came_true, headline, verdict, why
from tuner_server.web.numbers import number
from tuner_server.web.thinning import FloatArray
from tuner_server.web.timeline import Timeline, timeline


@pytest.fixture(scope="module")
def finished() -> Run:
    return drive(job_config("budget"), SimulatedTraining(validates=True))


@pytest.fixture(scope="module")
def training() -> Run:
    return drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=12)


def _with_losses(found: Timeline, losses: FloatArray) -> Timeline:
    """The same job, with one report of such losses."""
    span = dataclasses.replace(next(span for span in found.spans if span.kept), losses=losses)
    return Timeline((span,), found.stages)


def test_a_finished_job_says_how_far_its_loss_came_and_what_the_search_cost(finished: Run) -> None:
    words = headline(finished.state, timeline(history(finished)))
    state = finished.state
    assert words.startswith("Finished after ")
    assert "The loss went from 2." in words
    share = 100 * state.search_steps / (state.search_steps + state.committed_steps)
    assert f"{share:.1f}% of the 4\u202f000 steps went into search." in words


def test_a_running_job_says_where_its_lr_is_and_where_it_goes(training: Run) -> None:
    profile = training.state.directive.profile
    assert profile is not None
    words = headline(training.state, timeline(history(training)))
    assert f"Training at LR {number(profile.lr(0))}, on its way from {number(profile.start_lr)} to 0." in words


def test_a_search_says_what_it_tries() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=1)
    assert "trying LR 0.1, to be rolled back" in headline(run.state, timeline(history(run)))


def test_why_names_the_range_the_best_and_what_the_policy_made_of_it(finished: Run) -> None:
    (stage,) = timeline(history(finished)).stages
    words = why(stage)
    assert stage.best is not None
    assert stage.decision is not None
    assert words.startswith(f"{len(stage.candidates)} probes tried LRs from ")
    assert f"LR {number(stage.best.lr)} reached the lowest loss, {number(stage.best.forecast)}." in words
    assert f"Committed was {number(stage.decision.lr)}: {stage.decision.reason}." in words
    assert came_true(stage) is None, "what a decayed probe reached is no forecast"


def test_a_forecast_is_compared_with_what_came_true() -> None:
    options = {**QUICK, "forecaster": "power_law"}
    run = drive(config(800, **options), SimulatedTraining())
    stage = timeline(history(run)).stages[0]
    assert came_true(stage) == stage.end_loss
    assert f"{number(stage.end_loss)} came true" in why(stage)


def test_a_search_whose_probes_all_diverged_says_so(finished: Run) -> None:
    (stage,) = timeline(history(finished)).stages
    assert stage.decision is not None
    diverged = tuple(Candidate(directive_number=c.directive_number, lr=c.lr, at_least=9.0) for c in stage.candidates)
    lost = dataclasses.replace(stage, decision=stage.decision.model_copy(update={"candidates": diverged}))
    assert "All diverged" in why(lost)


def test_the_loss_is_called_falling_level_or_rising_only_beyond_its_noise(training: Run) -> None:
    found = timeline(history(training))
    noise = 0.1 * np.random.default_rng(0).standard_normal(2000)
    slope = np.linspace(0, 1, 2000)
    expected = {"falling": 2 - slope, "level": 2 + 0 * slope, "rising": 2 + slope}
    for word, losses in expected.items():
        assert verdict(training.state, _with_losses(found, losses + noise)).words == f"Loss is {word}"


def test_a_job_that_failed_or_was_cancelled_is_not_said_to_go_well(training: Run) -> None:
    found = timeline(history(training))
    failed = training.state.model_copy(update={"status": Status.FAILED, "message": "policy budget: a bug"})
    assert verdict(failed, found).tone is Tone.BAD
    assert "policy budget: a bug" in headline(failed, found)
    cancelled = job.cancel(training.state, "wrong data")
    assert verdict(cancelled, found).why == "wrong data"


def test_a_job_that_got_nowhere_is_not_said_to_be_well(finished: Run) -> None:
    found = _with_losses(timeline(history(finished)), np.full(500, 2.0))
    assert verdict(finished.state, found).tone is Tone.WARNING
