from __future__ import annotations

import dataclasses
import json
import math

import pytest

from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.messages import Candidate, PosteriorCurve
from tuner_server.history.stage import Stage
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.web.charts.evidence import stage_curves

BUDGET = job_config("job")
FORECASTING = config(800, **QUICK | {"forecaster": "power_law", "tau_prime": 12})


@pytest.fixture(scope="module")
def found() -> Timeline:
    """A job one of whose probes diverges."""
    return timeline(history(drive(BUDGET, SimulatedTraining(validates=True))))


@pytest.fixture(scope="module")
def forecast() -> Stage:
    """A stage whose candidates were judged by forecasts, about 1."""
    run = drive(FORECASTING, SimulatedTraining())
    return timeline(history(run)).stages[0]


def changed(stage: Stage, number: int, **values: float) -> Stage:
    """With another forecast of one of its candidates."""
    assert stage.decision is not None
    candidates: list[Candidate] = list(stage.candidates)
    candidates[number] = candidates[number].model_copy(update=values)
    return dataclasses.replace(stage, decision=stage.decision.model_copy(update={"candidates": tuple(candidates)}))


def test_a_decision_has_its_candidates_probes_and_posterior(found: Timeline) -> None:
    (stage,) = found.stages
    curves = stage_curves(stage, BUDGET)
    assert curves["candidate_lr"] == [candidate.lr for candidate in stage.candidates]
    assert [probe["lr"] for probe in curves["probes"]] == [probe.lr for probe in stage.probes]
    assert sum(probe["chosen"] for probe in curves["probes"]) == 1
    assert curves["posterior"] is not None
    assert curves["acquisition"] is not None
    assert all(math.isfinite(value) for value in curves["acquisition"]["value"])


def test_a_range_test_is_loss_over_lr() -> None:
    run = drive(config(2000, bounds=False, **QUICK), SimulatedTraining(), max_directives=3)
    stage = timeline(history(run)).stages[0]
    found = stage_curves(stage, BUDGET)["range_test"]
    assert found is not None
    line = found["losses"]
    assert found["range"][0] == min(y for y in line["y"] if y is not None)
    assert [x for x in line["x"] if x is not None] == sorted(x for x in line["x"] if x is not None)
    assert len(stage_curves(stage, BUDGET)["probes"]) == len(stage.probes) - 2, "neither the test nor the one that runs"


def test_the_axis_shows_all_that_was_forecast_and_how_sure_it_was(forecast: Stage) -> None:
    curves = stage_curves(forecast, FORECASTING)
    low, high = curves["loss_range"]
    for loss, bar in zip(curves["candidate_loss"], curves["candidate_bar"], strict=True):
        assert loss is None or low <= loss - bar <= loss + bar <= high
    assert curves["actual"] is not None
    assert low <= curves["actual"] <= high
    assert curves["beyond"]["lr"] == []


@pytest.mark.parametrize("sd", [331.0, math.inf])
def test_a_forecast_that_nothing_is_known_of_stretches_no_axis(forecast: Stage, sd: float) -> None:
    usual = stage_curves(forecast, FORECASTING)["loss_range"]
    curves = stage_curves(changed(forecast, 1, forecast_sd=sd), FORECASTING)
    assert curves["loss_range"] == pytest.approx(usual, abs=0.2 * (usual[1] - usual[0]))
    beyond, lr = curves["beyond"], forecast.candidates[1].lr
    assert (beyond["lr"], beyond["above"]) == ([lr, lr], [False, True])
    assert all(text.endswith("beyond the plot") for text in beyond["text"])
    assert "±" in beyond["text"][0]
    json.dumps(curves, allow_nan=False)


def test_a_wild_forecast_is_pointed_at(forecast: Stage) -> None:
    usual = stage_curves(forecast, FORECASTING)["loss_range"]
    curves = stage_curves(changed(forecast, 1, forecast=-40.0), FORECASTING)
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
    low, high = stage_curves(stage, BUDGET)["loss_range"]
    assert low <= best.forecast <= high
    assert high - low < 50.0


def test_a_surrogate_that_knows_nothing_leaves_the_plot(forecast: Stage) -> None:
    usual = stage_curves(forecast, FORECASTING)
    assert forecast.posterior is not None
    assert not usual["band_leaves"]
    posterior = forecast.posterior
    unsure = PosteriorCurve(
        lr=posterior.lr,
        mean=posterior.mean,
        sd=(50.0, *posterior.sd[1:]),
        acquisition=posterior.acquisition,
    )
    curves = stage_curves(dataclasses.replace(forecast, posterior=unsure), FORECASTING)
    assert curves["band_leaves"]
    assert curves["loss_range"] == pytest.approx(usual["loss_range"], rel=0.2, abs=0.2)


def test_whiskers_are_as_wide_as_the_band(forecast: Stage) -> None:
    bars = stage_curves(forecast, FORECASTING)["candidate_bar"]
    assert bars == [2.0 * (candidate.forecast_sd or 0.0) for candidate in forecast.candidates]
    assert max(bars) > 0.0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "lower confidence bound, sign turned (κ = 1×10⁶)"),
        ({"kappa": 2.0}, "lower confidence bound, sign turned (κ = 2)"),
        ({"kappa": 0.0}, "lower confidence bound, sign turned (κ = 0)"),
        ({"acquisition": "log_ei"}, "log expected improvement"),
    ],
)
def test_the_acquisition_has_the_name_of_what_the_policy_used(options: dict[str, object], name: str) -> None:
    asked = config(800, **QUICK | options)
    stage = timeline(history(drive(asked, SimulatedTraining(), max_directives=4))).stages[0]
    found = stage_curves(stage, asked)["acquisition"]
    assert found is not None
    assert found["name"] == name
    assert stage.sought is not None
    former = dataclasses.replace(stage, sought=stage.sought.model_copy(update={"asked": None}))
    assert stage_curves(former, asked)["acquisition"] == found, "its values tell, where the former version did not"


def test_the_acquisition_is_the_one_that_the_last_probe_was_chosen_by(found: Timeline) -> None:
    (stage,) = found.stages
    acquisition = stage_curves(stage, BUDGET)["acquisition"]
    assert acquisition is not None
    assert acquisition["name"] == "log expected improvement"
    best = acquisition["lr"][acquisition["value"].index(max(acquisition["value"]))]
    assert best == pytest.approx(stage.probes[-1].lr, rel=0.05)
    low, high = acquisition["range"]
    assert low < max(acquisition["value"]) < high
    assert sum(value >= low for value in acquisition["value"]) >= 0.7 * len(acquisition["value"])


def test_a_committed_lr_that_was_corrected_for_length_is_led_to_from_the_best_of_short_runs(found: Timeline) -> None:
    (stage,) = found.stages
    curves = stage_curves(stage, BUDGET)
    corrected, posterior = curves["corrected"], curves["posterior"]
    assert corrected is not None
    assert posterior is not None
    lowest = posterior["lr"][posterior["mean"].index(min(posterior["mean"]))]
    assert corrected["lr"] == pytest.approx(lowest, rel=0.05), "the surrogate's minimum"
    assert corrected["loss"] == pytest.approx(min(posterior["mean"]), rel=0.01)
    assert stage.decision is not None
    assert stage.decision.correction is not None
    assert corrected["way"] == f"× {stage.decision.correction:.2g} for the longer run, drawn towards 0.1"
    assert curves["lr"] == pytest.approx(corrected["lr"] * float(corrected["ratio"].removeprefix("× ")), rel=0.02)


@pytest.mark.parametrize(
    ("nudge", "told", "words"),
    [
        (1.0, {}, ""),
        (1.3, {"drawn_to": 0.2}, ", drawn towards 0.2"),
        (0.3, {"lowered_by": 3.0}, ", lowered further"),
        (0.4, {"drawn_to": 0.2, "lowered_by": 3.0}, ", drawn towards 0.2, lowered further"),
        (1.3, {"asked": None}, ", drawn towards 0.1"),
    ],
)
def test_the_way_to_the_committed_lr_says_what_moved_it(
    found: Timeline, nudge: float, told: dict[str, object], words: str
) -> None:
    decision = found.stages[0].decision
    assert decision is not None
    assert decision.optimum is not None
    assert decision.correction is not None
    lr = nudge * decision.optimum * decision.correction
    values = {"lr": lr, "drawn_to": None, "lowered_by": None, **told}
    moved = dataclasses.replace(found.stages[0], decision=decision.model_copy(update=values))
    corrected = stage_curves(moved, BUDGET)["corrected"]
    assert corrected is not None
    assert corrected["way"] == f"× {decision.correction:.2g} for the longer run{words}"


def test_a_lr_that_was_committed_as_it_was_found_is_not_corrected(forecast: Stage) -> None:
    assert stage_curves(forecast, FORECASTING)["corrected"] is None


def test_probes_of_the_same_batches_are_shown_by_what_they_are_above_the_winner(found: Timeline) -> None:
    (stage,) = found.stages
    curves = stage_curves(stage, BUDGET)
    assert curves["relative"]
    (winner,) = [probe for probe in curves["probes"] if probe["chosen"]]
    assert set(winner["losses"]["y"]) == set(winner["validations"]["y"]) == {0.0}
    (best,) = [
        p.span for p in stage.probes if p.span and stage.best and p.directive.number == stage.best.directive_number
    ]
    assert best is not None
    for probe, curve in zip(stage.probes, curves["probes"], strict=True):
        assert probe.span is not None
        for step, loss in zip(curve["losses"]["x"], curve["losses"]["y"], strict=True):
            assert step is not None
            assert loss is None or loss == probe.span.losses[int(step) - 1] - best.losses[int(step) - 1]
        if not probe.diverged:
            assert curve["validations"]["y"] == [probe.span.validations[-1].loss - best.validations[-1].loss]


def test_probes_that_saw_other_batches_are_not_compared_step_by_step() -> None:
    fresh = config(800, **QUICK | {"batches": "fresh"})
    stage = timeline(history(drive(fresh, SimulatedTraining()))).stages[0]
    curves = stage_curves(stage, fresh)
    assert not curves["relative"]
    span = stage.probes[0].span
    assert span is not None
    assert curves["probes"][0]["losses"]["y"][0] == span.losses[0]


def test_a_probe_is_not_compared_with_itself_while_the_next_one_runs() -> None:
    stage = timeline(history(drive(BUDGET, SimulatedTraining(validates=True), max_directives=1))).stages[0]
    (probe,) = stage_curves(stage, BUDGET)["probes"]
    assert len(stage.probes) == 2
    assert all(loss for loss in probe["losses"]["y"])
