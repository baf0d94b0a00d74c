from __future__ import annotations

import json

import pytest

from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.forecast import Curve, FloatArray, PowerLawForecaster
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.web.charts.forecasts import CURVE_POINTS, ended, forecasts, sentence

QUICK_DECAYED = {name: value for name, value in QUICK.items() if name != "forecaster"} | {"decayed_probes": True}
FORECASTING = config(1200, **QUICK | {"forecaster": "power_law"})


@pytest.fixture(scope="module")
def found() -> Timeline:
    """Stages whose candidates were judged by forecasts."""
    return timeline(history(drive(FORECASTING, SimulatedTraining())))


def test_each_stage_that_ended_has_its_winners_forecast_and_what_came_true(found: Timeline) -> None:
    curves = forecasts(FORECASTING, found)
    stages = [stage for stage in found.stages if stage.best is not None]
    assert len(stages) > 3
    assert curves["loss"] == [stage.best.forecast for stage in stages if stage.best]
    assert curves["bar"] == [2.0 * (stage.best.forecast_sd or 0.0) for stage in stages if stage.best]
    assert curves["came_true"] == [stage.end_loss for stage in stages]
    assert curves["end"] == [stage.spans[-1].end for stage in stages]
    assert all(x <= end for x, end in zip(curves["x"], curves["end"], strict=True))
    json.dumps(curves, allow_nan=False)


def test_the_curve_leads_along_the_committed_steps_to_the_forecast(found: Timeline) -> None:
    curves = forecasts(FORECASTING, found)
    line, first = curves["curve"], found.stages[0]
    assert line["x"][0] == first.spans[0].start
    assert line["x"][CURVE_POINTS - 1] == curves["x"][0] == first.spans[-1].end
    assert line["y"][CURVE_POINTS - 1] == pytest.approx(curves["loss"][0])
    assert len(line["x"]) == len(curves["loss"]) * (CURVE_POINTS + 1), "all were fitted anew, and forecast the same"


def test_a_stage_that_has_ended_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = history(drive(FORECASTING, SimulatedTraining(seed=5)))  # which no other test has had fitted
    fit, n_fits = PowerLawForecaster.fit, 0

    def counted(self: PowerLawForecaster, losses: FloatArray) -> Curve:
        nonlocal n_fits
        n_fits += 1
        return fit(self, losses)

    monkeypatch.setattr(PowerLawForecaster, "fit", counted)
    first = forecasts(FORECASTING, timeline(entries))
    assert n_fits == len(first["loss"])
    assert forecasts(FORECASTING, timeline(entries)) == first, "its job laid out anew, as after each report"
    assert n_fits == len(first["loss"])


def test_validation_losses_are_extrapolated_in_their_own_intervals() -> None:
    validated = config(1200, has_validation=True, **QUICK | {"forecaster": "power_law", "tau_max": 40})
    found = timeline(history(drive(validated, SimulatedTraining(validates=True))))
    stage = found.stages[1]
    assert stage.probes[0].directive.validate_at
    curves = forecasts(validated, found)
    assert stage.spans[-1].end in curves["curve"]["x"]
    assert curves["came_true"][1] == stage.end_validation


def test_a_curve_that_is_not_the_policys_is_not_drawn(found: Timeline) -> None:
    another = timeline(history(drive(FORECASTING, SimulatedTraining())))
    curves = forecasts(config(1200, **QUICK | {"forecaster": "exponential"}), another)
    assert curves["curve"]["x"] == []
    assert curves["loss"] == forecasts(FORECASTING, found)["loss"]


def test_how_good_forecasts_were_is_counted_over_stages(found: Timeline) -> None:
    outcomes = ended(found)
    right = sum(abs(o.came_true - o.loss) <= 2 * o.sd for o in outcomes)
    assert sentence(FORECASTING, found) == (
        f"{right} of {len(outcomes)} stages ended within 2 standard errors of the winner's forecast."
    )
    assert sentence(FORECASTING, Timeline((), ())) == ""


@pytest.mark.parametrize("measuring", [job_config("job"), config(800, **QUICK_DECAYED)])
def test_probes_whose_end_is_measured_forecast_nothing(measuring: JobConfig) -> None:
    found = timeline(history(drive(measuring, SimulatedTraining(validates=True))))
    assert sentence(measuring, found).startswith("Probes are not extrapolated")
    assert forecasts(measuring, found)["x"] == []


def test_a_job_without_probes_says_nothing_of_them() -> None:
    job = job_config("budget")
    assert sentence(job, timeline(history(drive(job, SimulatedTraining(), max_directives=0)))) == ""
