"""Probes of `autolrs` whose loss rose before it fell: what is forecast of them, and that they don't ruin the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.jobs.simulated_training import config
from tuner_server.core.forecast import ExponentialForecaster, Forecast, LastValueForecaster, Objective
from tuner_server.core.job import machine
from tuner_server.core.job.state import Transition
from tuner_server.core.messages import Candidate, Directive, Outcome, Phase, Report, Validation

TAU, TAU_PRIME = 400, 40
NOISE_SD = 0.02
NOISE: list[float] = (NOISE_SD * np.random.default_rng(0).standard_normal(TAU_PRIME)).tolist()
"""The noise of the batches, which the probes of a stage share."""
START = 0.5
CHANCE = 2.3
"""What a network that answers the same to everything has."""
Course = Callable[[int], float]
"""The loss at a step, without noise."""


def sound(step: int) -> float:
    """Falls slowly from the start."""
    return START * math.exp(-step / 400)


def ruined(step: int) -> float:
    """Comes down from a spike to chance in nearly a straight line."""
    return START if step == 0 else CHANCE + 0.04 * (TAU_PRIME - step)


def recovering(step: int) -> float:
    """Comes down from a spike to below the start, and looks as if it went on."""
    return START if step == 0 else 0.44 + 0.02 * (TAU_PRIME - step)


def growing(step: int) -> float:
    """Rises slowly and does not come back."""
    return START + 0.01 * step


def report_on(directive: Directive, course: Course) -> Report:
    """A whole probe, or part of the committed steps, along a course; validation has no noise."""
    losses = tuple(course(step) + NOISE[step % TAU_PRIME] for step in range(directive.n_steps))
    validations = tuple(Validation(step=step, loss=course(step)) for step in directive.validate_at)
    return Report(directive_number=directive.number, outcome=Outcome.COMPLETED, losses=losses, validations=validations)


def at_stage(stage: int, *, validates: bool = False, **options: Any) -> Transition:
    """A job before the first of a stage's two probes; the stage starts at `START`."""
    options = {"tau": TAU, "tau_prime": TAU_PRIME, "tau_max": TAU, "candidates": 2, **options}
    transition = machine.create(config(10 * TAU, has_validation=validates, **options))
    while transition.directive.stage < stage:
        transition = machine.advance(transition.state, report_on(transition.directive, lambda _: START))
    return transition


def search(transition: Transition, *courses: Course) -> tuple[tuple[Candidate, ...], Directive]:
    """A stage's candidates, and what is then committed."""
    for course in courses:
        assert transition.directive.phase is Phase.PROBE
        transition = machine.advance(transition.state, report_on(transition.directive, course))
    assert transition.decision is not None
    assert transition.directive.phase is Phase.TRAIN
    return transition.decision.candidates, transition.directive


def exponential(course: Course) -> Forecast:
    """What the published method makes of a probe's training losses."""
    losses = np.array([course(step) + NOISE[step] for step in range(TAU_PRIME)])
    return ExponentialForecaster(Objective.TRAINING).fit(losses).predict(TAU)


def end(course: Course) -> float:
    losses = np.array([course(step) + NOISE[step] for step in range(TAU_PRIME)])
    return LastValueForecaster().fit(losses).predict(TAU).loss


@pytest.mark.parametrize("stage", [0, 1], ids=["pretrained", "later"])
@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("forecaster", ["exponential", "power_law"])
def test_a_network_that_was_ruined_does_not_win_by_its_fall_from_the_spike(
    stage: int, validates: bool, forecaster: str
) -> None:
    assert exponential(ruined).loss < exponential(sound).loss, "the published method would take it"
    transition = at_stage(stage, validates=validates, forecaster=forecaster)
    (bad, good), committed = search(transition, ruined, sound)
    assert bad.loss >= CHANCE
    assert committed.profile is not None
    assert committed.profile.start_lr == good.lr


@pytest.mark.parametrize("course", [ruined, recovering])
def test_a_fall_that_follows_a_rise_counts_as_far_as_it_went(course: Course) -> None:
    (fallen, _), _ = search(at_stage(1), course, sound)
    assert exponential(course).loss < end(course)
    assert (fallen.forecast, fallen.raw_forecast) == (end(course), end(course))
    assert fallen.forecast_sd is not None
    assert fallen.forecast_sd > 0


def test_what_a_recovered_probe_was_judged_by_is_its_end_and_the_decision_says_so() -> None:
    transition = at_stage(1)
    for course in (lambda step: sound(step) + 0.2, recovering):
        transition = machine.advance(transition.state, report_on(transition.directive, course))
    assert transition.decision is not None
    found = transition.decision.extrapolation
    assert found is not None
    assert (found.forecaster, found.horizon) == ("last_value", TAU)
    assert set(found.losses) == {end(recovering)}


def test_one_that_recovered_wins_if_it_ended_lowest() -> None:
    (_, recovered), committed = search(at_stage(1), lambda step: sound(step) + 0.2, recovering)
    assert committed.profile is not None
    assert committed.profile.start_lr == recovered.lr


@pytest.mark.parametrize("course", [sound, growing])
def test_the_published_forecast_stands_where_the_loss_did_not_rise_or_did_not_come_back(course: Course) -> None:
    (candidate, _), _ = search(at_stage(1), course, sound)
    published = exponential(course)
    assert (candidate.forecast, candidate.forecast_sd) == (published.loss, published.sd)
