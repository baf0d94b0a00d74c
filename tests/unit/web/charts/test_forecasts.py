from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, NoNumbers, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.evidence.extrapolation import CURVE_POINTS
from tuner_server.core.forecast import ExponentialForecaster, Forecaster, Objective, PowerLawForecaster
from tuner_server.core.messages import Extrapolation
from tuner_server.history.stage import Stage
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.web.charts.forecasts import ended, forecasts, sentence

QUICK_DECAYED = {name: value for name, value in QUICK.items() if name != "forecaster"} | {"decayed_probes": True}
FORECASTING = config(1200, **QUICK | {"forecaster": "power_law"})


@pytest.fixture(scope="module")
def found() -> Timeline:
    """Stages whose candidates were judged by forecasts."""
    return timeline(history(drive(FORECASTING, SimulatedTraining())))


def fitted_anew(stage: Stage, forecaster: Forecaster) -> Iterator[tuple[float, float]]:
    """Run steps and losses of a curve along the committed steps, fitted to the losses of the winner's probe."""
    assert stage.winner is not None
    assert stage.winner.span is not None
    assert stage.directive is not None
    probe, n_steps = stage.winner.span, stage.directive.n_steps
    losses = [validation.loss for validation in probe.validations] or probe.losses
    interval = probe.n_steps / len(losses)
    curve = forecaster.fit(np.asarray(losses))
    for step in np.linspace(0.0, n_steps, CURVE_POINTS).tolist():
        yield stage.spans[0].start + step, curve.predict(step / interval).loss


def test_each_stage_that_ended_has_its_winners_forecast_and_the_actual_loss(found: Timeline) -> None:
    curves = forecasts(found)
    stages = [stage for stage in found.stages if stage.best is not None]
    assert len(stages) > 3
    assert curves["loss"] == [stage.best.forecast for stage in stages if stage.best]
    assert curves["bar"] == [2.0 * (stage.best.forecast_sd or 0.0) for stage in stages if stage.best]
    assert curves["actual"] == [stage.end_loss for stage in stages]
    assert curves["end"] == [stage.spans[-1].end for stage in stages]
    assert all(x <= end for x, end in zip(curves["x"], curves["end"], strict=True))
    json.dumps(curves, allow_nan=False)


def test_the_curve_leads_along_the_committed_steps_to_the_forecast(found: Timeline) -> None:
    curves = forecasts(found)
    line, first = curves["curve"], found.stages[0]
    assert line["x"][0] == first.spans[0].start
    assert line["x"][CURVE_POINTS - 1] == curves["x"][0] == first.spans[-1].end
    assert line["y"][CURVE_POINTS - 1] == curves["loss"][0]
    assert len(line["x"]) == len(line["y"]) == len(curves["loss"]) * (CURVE_POINTS + 1)


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("name", ["exponential", "power_law"])
def test_the_curve_is_the_one_that_a_fit_to_the_winners_probe_gives(name: str, validates: bool) -> None:
    asked = config(1200, has_validation=validates, **QUICK | {"forecaster": name, "tau_prime": 12, "tau_max": 40})
    found = timeline(history(drive(asked, SimulatedTraining(validates=validates))))
    line, n_validated = forecasts(found)["curve"], 0
    assert len(found.stages) > 4
    for i, stage in enumerate(found.stages[:-1]):
        assert stage.winner is not None
        validated = bool(stage.winner.directive.validate_at)
        n_validated += validated
        objective = Objective.VALIDATION if validated else Objective.TRAINING
        forecaster = ExponentialForecaster(objective) if name == "exponential" else PowerLawForecaster()
        at = slice(i * (CURVE_POINTS + 1), (i + 1) * (CURVE_POINTS + 1) - 1)
        drawn = [(x, y) for x, y in zip(line["x"][at], line["y"][at], strict=True) if x is not None and y is not None]
        assert np.array(drawn) == pytest.approx(np.array(list(fitted_anew(stage, forecaster))), rel=1e-9)
    assert (n_validated > 2) == validates


def test_validation_losses_are_extrapolated_in_their_own_intervals() -> None:
    validated = config(1200, has_validation=True, **QUICK | {"forecaster": "power_law", "tau_max": 40})
    found = timeline(history(drive(validated, SimulatedTraining(validates=True))))
    stage = found.stages[1]
    assert stage.probes[0].directive.validate_at
    curves = forecasts(found)
    assert stage.spans[-1].end in curves["curve"]["x"]
    assert curves["actual"][1] == stage.end_validation


def _extrapolated_by(found: Timeline, extrapolation: Extrapolation | None) -> Timeline:
    stages = [
        dataclasses.replace(stage, decision=stage.decision.model_copy(update={"extrapolation": extrapolation}))
        for stage in found.stages
        if stage.decision is not None
    ]
    return dataclasses.replace(found, stages=tuple(stages))


def test_a_decision_that_tells_no_curve_has_its_forecast_at_the_stages_end(found: Timeline) -> None:
    curves = forecasts(_extrapolated_by(found, None))
    assert curves["curve"] == {"x": [], "y": []}
    assert curves["x"] == curves["end"]
    assert curves["loss"] == forecasts(found)["loss"]


def test_a_curve_may_have_any_number_of_points_and_leave_the_numbers(found: Timeline) -> None:
    odd = Extrapolation(forecaster="anybody's", horizon=20, losses=(1.0, float("inf"), float("nan")))
    line, start = forecasts(_extrapolated_by(found, odd))["curve"], found.stages[0].spans[0].start
    assert line["x"][:4] == [start, start + 10, start + 20, None]
    assert line["y"][:4] == [1.0, None, None, None]


def test_how_good_forecasts_were_is_counted_over_stages(found: Timeline) -> None:
    outcomes = ended(found)
    right = sum(abs(o.actual - o.loss) <= 2 * o.sd for o in outcomes)
    assert sentence(found) == (
        f"{right} of {len(outcomes)} stages ended within 2 standard errors of the winner's forecast."
    )
    assert sentence(Timeline((), ())) == ""


@pytest.mark.parametrize("training", [SimulatedTraining, NoNumbers], ids=["sound", "all diverged"])
@pytest.mark.parametrize("measuring", [job_config("job"), config(800, **QUICK_DECAYED)])
def test_probes_whose_end_is_measured_forecast_nothing(measuring: JobConfig, training: type[SimulatedTraining]) -> None:
    found = timeline(history(drive(measuring, training(validates=measuring.has_validation), max_directives=12)))
    assert sentence(found).startswith("Probes are not extrapolated")
    assert forecasts(found)["x"] == []


def test_of_probes_at_one_lr_that_all_diverged_nothing_is_said() -> None:
    found = timeline(history(drive(FORECASTING, NoNumbers(), max_directives=3)))
    assert found.stages[0].candidates
    assert found.stages[0].best is None
    assert sentence(found) == ""


def test_a_job_without_probes_says_nothing_of_them() -> None:
    job = job_config("budget")
    assert sentence(timeline(history(drive(job, SimulatedTraining(), max_directives=0)))) == ""
