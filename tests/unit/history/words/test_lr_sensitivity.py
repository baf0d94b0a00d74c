from __future__ import annotations

import dataclasses
import math

import pytest

from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, NoNumbers, Run, SimulatedTraining, config, drive
from tuner_server.core.messages import Candidate, PosteriorCurve
from tuner_server.history.stage import Stage
from tuner_server.history.timeline import timeline
from tuner_server.history.words.lr_sensitivity import FACTOR, LrSensitivity, words

BUDGET = job_config("budget")
START = 2.5


def _stage(run: Run) -> Stage:
    return timeline(history(run)).stages[0]


@pytest.fixture(scope="module")
def searched() -> Stage:
    """The search of the policy `budget`, validated."""
    return _stage(drive(BUDGET, SimulatedTraining(validates=True)))


def _with(stage: Stage, posterior: PosteriorCurve | None, *candidates: tuple[float, float | None]) -> Stage:
    """A stage with other candidates, from LRs and losses; None: the probe diverged."""
    assert stage.decision is not None
    found = tuple(
        Candidate(directive_number=i + 1, lr=lr, forecast=loss, forecast_sd=None if loss is None else 0.0)
        for i, (lr, loss) in enumerate(candidates)
    )
    decision = stage.decision.model_copy(update={"candidates": found})
    return dataclasses.replace(stage, decision=decision, posterior=posterior)


def _start(stage: Stage) -> float:
    span = stage.tried[0].span
    assert span is not None
    return span.validations[0].loss


def test_what_lrs_beside_the_best_lack_is_a_part_of_what_the_best_probe_gained(searched: Stage) -> None:
    start = _start(searched)
    best, worse = start - 1.0, start - 0.75
    stage = _with(searched, None, (0.1 / FACTOR, worse), (0.1, best), (0.1 * FACTOR, start + 9))
    found = LrSensitivity.of(stage)
    assert found is not None
    assert found.lower == pytest.approx(0.25)
    assert found.higher == 1.0
    told = "Over a probe a third of the best LR would lose 25% of what the best one gained, and three times the best LR"
    assert words(stage) == f"{told} 100%. A longer run loses less by too low an LR."


def test_a_probe_that_diverged_lost_all_and_an_lr_that_was_not_tried_is_not_told_of(searched: Stage) -> None:
    start = _start(searched)
    stage = _with(searched, None, (0.1, start - 1.0), (0.1 * FACTOR, None))
    assert LrSensitivity.of(stage) == LrSensitivity(None, 1.0)
    assert words(stage) == "Over a probe three times the best LR would lose 100% of what the best one gained."


def test_between_the_probes_the_surrogate_is_asked_and_beyond_its_range_the_probes(searched: Stage) -> None:
    start = _start(searched)
    lrs = (0.02, 0.1, 0.2)
    curve = PosteriorCurve(lr=lrs, mean=(start - 0.5, start - 1.0, start - 0.9), sd=(0.1,) * 3, acquisition=(0.0,) * 3)
    stage = _with(searched, curve, (0.01, start), (0.1, start - 0.3), (0.4, start - 0.4))
    found = LrSensitivity.of(stage)
    assert found is not None
    way = math.log(FACTOR) / math.log(5.0)
    assert found.lower == pytest.approx(0.5 * way), "on the surrogate's curve"
    way = math.log(FACTOR / 2) / math.log(2.0)
    assert found.higher == pytest.approx(0.1 + 0.5 * way), "between its end and the next probe"


@pytest.mark.parametrize("validates", [True, False])
def test_a_real_search_tells_both(validates: bool) -> None:
    stage = _stage(
        drive(BUDGET.model_copy(update={"has_validation": validates}), SimulatedTraining(validates=validates))
    )
    found = LrSensitivity.of(stage)
    assert found is not None
    assert found.lower is not None
    assert found.higher is not None
    assert 0 < found.lower < 1
    assert 0 < found.higher <= 1


def test_forecasts_and_probes_that_gained_nothing_tell_nothing(searched: Stage) -> None:
    assert words(_stage(drive(config(800, **{**QUICK, "forecaster": "power_law"}), SimulatedTraining()))) == ""
    assert words(_stage(drive(BUDGET, NoNumbers(), max_directives=8))) == ""
    start = _start(searched)
    assert words(_with(searched, None, (0.01, start), (0.1, start + 1.0), (1.0, start))) == ""
    assert words(dataclasses.replace(searched, decision=None, posterior=None)) == ""
