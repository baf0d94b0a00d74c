from __future__ import annotations

import dataclasses
import json
import math

import pytest

from tests.support.shown import history, job_config
from tests.support.simulated import QUICK, SimulatedTraining, config, drive
from tuner_server.core.messages import Candidate, PosteriorCurve
from tuner_server.web.evidence import stage_curves
from tuner_server.web.timeline import Stage, Timeline, timeline


@pytest.fixture(scope="module")
def found() -> Timeline:
    """A job one of whose probes diverges."""
    return timeline(history(drive(job_config("job"), SimulatedTraining(validates=True))))


@pytest.fixture(scope="module")
def forecast() -> Stage:
    """A stage whose candidates were judged by forecasts, about 1."""
    run = drive(config(800, **QUICK | {"forecaster": "power_law"}), SimulatedTraining())
    return timeline(history(run)).stages[0]


def changed(stage: Stage, number: int, **values: float) -> Stage:
    """With another forecast of one of its candidates."""
    assert stage.decision is not None
    candidates: list[Candidate] = list(stage.candidates)
    candidates[number] = candidates[number].model_copy(update=values)
    return dataclasses.replace(stage, decision=stage.decision.model_copy(update={"candidates": tuple(candidates)}))


def test_a_decision_has_its_candidates_probes_and_posterior(found: Timeline) -> None:
    (stage,) = found.stages
    curves = stage_curves(stage)
    assert curves["candidate_lr"] == [candidate.lr for candidate in stage.candidates]
    assert [probe["lr"] for probe in curves["probes"]] == [probe.lr for probe in stage.probes]
    assert sum(probe["chosen"] for probe in curves["probes"]) == 1
    assert curves["posterior"] is not None
    assert all(math.isfinite(value) for value in curves["posterior"]["acquisition"])


def test_a_range_test_is_loss_over_lr() -> None:
    run = drive(config(2000, bounds=False, **QUICK), SimulatedTraining(), max_directives=3)
    stage = timeline(history(run)).stages[0]
    line = stage_curves(stage)["range_test"]
    assert line is not None
    assert [x for x in line["x"] if x is not None] == sorted(x for x in line["x"] if x is not None)
    assert len(stage_curves(stage)["probes"]) == len(stage.probes) - 2, "neither the test nor the one that runs"


def test_the_axis_shows_all_that_was_forecast_and_how_sure_it_was(forecast: Stage) -> None:
    curves = stage_curves(forecast)
    low, high = curves["loss_range"]
    for loss, sd in zip(curves["candidate_loss"], curves["candidate_sd"], strict=True):
        assert loss is None or low <= loss - sd <= loss + sd <= high
    assert curves["came_true"] is not None
    assert low <= curves["came_true"] <= high
    assert curves["beyond"]["lr"] == []


@pytest.mark.parametrize("sd", [331.0, math.inf])
def test_a_forecast_that_nothing_is_known_of_stretches_no_axis(forecast: Stage, sd: float) -> None:
    usual = stage_curves(forecast)["loss_range"]
    curves = stage_curves(changed(forecast, 1, forecast_sd=sd))
    assert curves["loss_range"] == pytest.approx(usual, abs=0.2 * (usual[1] - usual[0]))
    beyond, lr = curves["beyond"], forecast.candidates[1].lr
    assert (beyond["lr"], beyond["above"]) == ([lr, lr], [False, True])
    assert all(text.endswith("beyond the plot") for text in beyond["text"])
    assert "±" in beyond["text"][0]
    json.dumps(curves, allow_nan=False)


def test_a_wild_forecast_is_pointed_at(forecast: Stage) -> None:
    usual = stage_curves(forecast)["loss_range"]
    curves = stage_curves(changed(forecast, 1, forecast=-40.0))
    low, high = curves["loss_range"]
    assert high - low < 2 * (usual[1] - usual[0])
    assert (curves["beyond"]["above"], curves["beyond"]["lr"]) == ([False], [forecast.candidates[1].lr])
    assert "−40" in curves["beyond"]["text"][0]


def test_wild_forecasts_of_most_do_not_hide_where_the_probes_got_to(forecast: Stage) -> None:
    stage, best = forecast, forecast.best
    assert best is not None
    assert best.forecast is not None
    for i, candidate in enumerate(forecast.candidates):
        if candidate is not best and not candidate.diverged:
            stage = changed(stage, i, forecast=-300.0 * (i + 1))
    low, high = stage_curves(stage)["loss_range"]
    assert low <= best.forecast <= high
    assert high - low < 50.0


def test_a_surrogate_that_knows_nothing_leaves_the_plot(forecast: Stage) -> None:
    usual = stage_curves(forecast)
    assert forecast.posterior is not None
    assert not usual["band_leaves"]
    posterior = forecast.posterior
    unsure = PosteriorCurve(
        lr=posterior.lr,
        mean=posterior.mean,
        sd=(50.0, *posterior.sd[1:]),
        acquisition=posterior.acquisition,
    )
    curves = stage_curves(dataclasses.replace(forecast, posterior=unsure))
    assert curves["band_leaves"]
    assert curves["loss_range"] == pytest.approx(usual["loss_range"], rel=0.2, abs=0.2)
