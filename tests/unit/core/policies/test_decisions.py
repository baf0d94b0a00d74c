"""What decisions tell of how they were made, so that whoever shows them has to know no policy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.support.jobs.broken_promises import DyingTraining
from tests.support.jobs.sample_jobs import job_config
from tests.support.jobs.simulated_training import (
    QUICK,
    Exchange,
    NoNumbersAfterAStep,
    Run,
    SimulatedTraining,
    config,
    drive,
)
from tuner_server.core.evidence.extrapolation import CURVE_POINTS
from tuner_server.core.evidence.restart import RETREAT
from tuner_server.core.forecast import (
    ExponentialForecaster,
    Forecaster,
    LastValueForecaster,
    Objective,
    PowerLawForecaster,
)
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Decision, Phase, Report, best_candidate
from tuner_server.core.policies.autolrs import AutoLrsState

DECAYED = {name: value for name, value in QUICK.items() if name != "forecaster"} | {"decayed_probes": True}


def decisions(run: Run) -> list[Decision]:
    return [exchange.decision for exchange in run.exchanges if exchange.decision is not None]


def committing(run: Run) -> list[tuple[Exchange, Decision]]:
    return [(exchange, exchange.decision) for exchange in run.of(Phase.TRAIN) if exchange.decision is not None]


def report_of(run: Run, decision: Decision) -> Report:
    """That of the winner's probe."""
    winner = best_candidate(decision.candidates)
    assert winner is not None
    (report,) = [e.report for e in run.exchanges if e.directive.number == winner.directive_number and e.report]
    return report


# --- what was asked of the search -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name", "kappa"),
    [
        ({}, "lower confidence bound, sign turned", 1e6),
        ({"kappa": 2.0}, "lower confidence bound, sign turned", 2.0),
        ({"acquisition": "log_ei"}, "log expected improvement", None),
    ],
)
def test_autolrs_tells_what_each_of_its_probes_was_chosen_by(
    options: dict[str, Any], name: str, kappa: float | None
) -> None:
    run = drive(config(400, **QUICK | options), SimulatedTraining())
    for exchange in run.of(Phase.PROBE):
        assert exchange.decision is not None
        asked = exchange.decision.asked
        assert asked is not None
        assert (asked.acquisition, asked.kappa) == (name, kappa)
        assert (asked.low, asked.high) == pytest.approx((1e-4, 1.0))
    assert all(decision.asked is None for _, decision in committing(run)), "the lowest forecast asks nothing"


def test_budget_tells_what_it_asked_and_between_which_lrs() -> None:
    run = drive(job_config("job"), SimulatedTraining(validates=True))
    *searched, committed = decisions(run)
    assert committed.asked is not None
    assert (committed.asked.acquisition, committed.asked.kappa) == ("lower confidence bound, sign turned", 0.0)
    for decision in searched:
        assert (decision.asked is None) == (decision.posterior is None), "a step outward asks nothing"
    for asked in (decision.asked for decision in decisions(run) if decision.asked):
        assert asked.acquisition == "log expected improvement" or asked is committed.asked
    for decision in (decision for decision in decisions(run) if decision.asked and decision.posterior):
        assert decision.asked
        assert decision.posterior
        assert (decision.asked.low, decision.asked.high) == pytest.approx(
            (decision.posterior.lr[0], decision.posterior.lr[-1])
        )


# --- what was extrapolated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "training", "validation"),
    [
        (
            "exponential",
            ExponentialForecaster(Objective.TRAINING),
            ExponentialForecaster(Objective.VALIDATION),
        ),
        ("power_law", PowerLawForecaster(), PowerLawForecaster()),
        ("last_value", LastValueForecaster(), LastValueForecaster()),
    ],
)
@pytest.mark.parametrize("validates", [False, True])
def test_the_extrapolation_is_the_curve_that_is_fitted_to_the_winners_probe(
    name: str, training: Forecaster, validation: Forecaster, validates: bool
) -> None:
    options = {**QUICK, "forecaster": name, "tau_prime": 16}
    run = drive(config(1600, has_validation=validates, **options), SimulatedTraining(validates=validates))
    judged_by_validation = 0
    for exchange, decision in committing(run):
        found, report, winner = decision.extrapolation, report_of(run, decision), best_candidate(decision.candidates)
        assert found is not None
        assert winner is not None
        assert (found.forecaster, len(found.losses)) == (name, CURVE_POINTS)
        losses, interval, forecaster = np.array(report.losses), 1.0, training
        if report.validations:
            judged_by_validation += 1
            losses, forecaster = np.array([v.loss for v in report.validations]), validation
            interval = report.n_steps / len(losses)
        curve, horizon = forecaster.fit(losses), found.horizon / interval
        assert found.losses == tuple(curve.predict(x).loss for x in np.linspace(0.0, horizon, CURVE_POINTS).tolist())
        assert found.losses[-1] == winner.forecast
        assert found.horizon <= exchange.directive.n_steps, "the last stage may have more"
    horizons = [decision.extrapolation.horizon for _, decision in committing(run) if decision.extrapolation]
    lengths = [exchange.directive.n_steps for exchange, _ in committing(run)]
    assert horizons[:-1] == lengths[:-1]
    assert horizons[:3] == [40, 80, 80], "tau"
    assert (judged_by_validation > 2) == validates


def test_a_measured_end_is_no_extrapolation() -> None:
    for run in (
        drive(job_config("job"), SimulatedTraining(validates=True)),
        drive(config(800, **DECAYED), SimulatedTraining()),
    ):
        assert all(decision.extrapolation is None for decision in decisions(run))
        candidates = list(itertools.chain.from_iterable(decision.candidates for decision in decisions(run)))
        assert candidates
        assert all(candidate.measured != candidate.diverged for candidate in candidates)


def test_forecasts_are_no_measurements() -> None:
    run = drive(config(400, **QUICK), SimulatedTraining())
    assert not any(c.measured for decision in decisions(run) for c in decision.candidates)


def test_a_state_keeps_the_best_candidates_extrapolation_alone_and_while_the_search_goes_on() -> None:
    asked = config(400, **QUICK | {"candidates": 5})
    for n_directives in range(1, 6):
        run = drive(asked, SimulatedTraining(), max_directives=n_directives)
        assert run.state.policy_state is not None
        state = AutoLrsState.model_validate(run.state.policy_state)
        best = best_candidate(state.candidates)
        if n_directives < 5:
            assert best is not None
            assert state.extrapolation is not None
            assert state.extrapolation.losses[-1] == best.forecast
        else:
            assert state.extrapolation is None, "the decision has it"


def test_where_all_diverged_nothing_is_extrapolated() -> None:
    run = drive(config(800, **QUICK), NoNumbersAfterAStep(), max_directives=4)
    ((_, decision),) = committing(run)
    assert decision.extrapolation is None
    assert (decision.optimum, decision.correction) == (None, None)


# --- what moved an LR -------------------------------------------------------------------------------------------------


def test_autolrs_tells_the_correction_of_its_final_decay_alone() -> None:
    run = drive(config(1000, final_decay=True, length_exponent=0.25, **QUICK), SimulatedTraining())
    *others, last = [decision for _, decision in committing(run)]
    assert others
    assert all((decision.optimum, decision.correction) == (None, None) for decision in others)
    winner = best_candidate(last.candidates)
    assert winner is not None
    assert last.optimum == winner.lr
    assert last.correction is not None
    assert last.correction < 1.0
    assert last.lr == last.optimum * last.correction
    plain = drive(config(1000, final_decay=True, **QUICK), SimulatedTraining())
    assert all(decision.correction is None for _, decision in committing(plain)), "nothing to correct by"


@pytest.mark.parametrize("base_lr", [0.1, 3e-5])
def test_budget_tells_whether_the_users_lr_counted(base_lr: float) -> None:
    asked = job_config("job").model_copy(update={"base_lr": base_lr})
    decision = decisions(drive(asked, SimulatedTraining(validates=True)))[-1]
    assert decision.optimum is not None
    assert decision.correction is not None
    moved = not same_lr(decision.lr, decision.optimum * decision.correction)
    assert moved == (base_lr == 0.1)
    assert decision.drawn_to == (base_lr if moved else None)
    assert decision.lowered_by is None


def test_budget_tells_what_it_lowered_an_lr_by_after_setbacks() -> None:
    run = drive(job_config("job", validates=False), DyingTraining(), alone_after=12)
    (_, first), (_, restarted), *_, (_, joined) = committing(run)
    assert (first.lowered_by, restarted.lowered_by) == (None, RETREAT)
    assert restarted.lr == pytest.approx(first.lr / RETREAT)
    assert joined.optimum is not None
    assert joined.correction is not None
    assert joined.lr == restarted.lr
    assert joined.lowered_by is not None
    assert joined.lowered_by > RETREAT, "over fewer steps the search would have a higher LR"
    drawn = joined.lr * joined.lowered_by
    assert (not same_lr(drawn, joined.optimum * joined.correction)) == (joined.drawn_to is not None)
