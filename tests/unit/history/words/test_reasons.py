from __future__ import annotations

import dataclasses

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.incomplete_rollback import NOTE, LeakingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, NoNumbersAfterAStep, Run, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Candidate, Decision, Directive, Phase
from tuner_server.history.stage import Stage
from tuner_server.history.timeline import timeline
from tuner_server.history.words.numbers import count, number, told_apart, with_error
from tuner_server.history.words.reasons import actual_end, why, why_restarts

BUDGET = job_config("budget")
FORECASTS = config(800, **{**QUICK, "forecaster": "power_law"})


@pytest.fixture(scope="module")
def searched() -> Stage:
    """The stage of the policy `budget`."""
    (stage,) = timeline(history(drive(BUDGET, SimulatedTraining(validates=True)))).stages
    return stage


@pytest.fixture(scope="module")
def forecast() -> Stage:
    """A stage whose candidates have forecasts."""
    return timeline(history(drive(FORECASTS, SimulatedTraining()))).stages[0]


@pytest.fixture(scope="module")
def diverging() -> tuple[Stage, ...]:
    """Stages of a job whose every LR is too high."""
    return timeline(history(drive(BUDGET, SimulatedTraining(edge_lr=1e-6, validates=True)))).stages


def _with_candidates(stage: Stage, *candidates: Candidate) -> Stage:
    assert stage.decision is not None
    return dataclasses.replace(stage, decision=stage.decision.model_copy(update={"candidates": candidates}))


def _with_decision(stage: Stage, **changes: object) -> Stage:
    assert stage.decision is not None
    return dataclasses.replace(stage, decision=stage.decision.model_copy(update=changes))


def _candidate(stage: Stage, loss: float, sd: float = 0.0, raw: float | None = None, lr: float = 0.1) -> Candidate:
    number = stage.probes[0].directive.number
    return Candidate(directive_number=number, lr=lr, forecast=loss, forecast_sd=sd, raw_forecast=raw)


def test_why_names_the_range_the_best_and_what_the_policy_made_of_it(searched: Stage) -> None:
    best, decision, directive = searched.best, searched.decision, searched.directive
    assert best is not None
    assert best.forecast is not None
    assert searched.second is not None
    assert decision is not None
    assert directive is not None
    words = why(searched, BUDGET)
    assert words.startswith(f"{len(searched.candidates)} probes tried LRs from ")
    loss = told_apart(best.forecast, searched.second.loss)[0]
    assert f"LR {number(best.lr)} reached the lowest loss, {loss}." in words
    assert "A longer run wants a lower LR: " in words
    assert f"for the decay over {count(directive.n_steps)} steps is " in words
    assert f"it became {number(decision.lr)}." in words
    assert actual_end(searched) is None, "what a decayed probe reached is no forecast"


def test_the_correction_for_length_is_the_decisions_own_whatever_the_policys_options_say(searched: Stage) -> None:
    told = _with_decision(searched, lr=0.03, optimum=0.12, correction=0.25, drawn_to=None)
    words = why(told, job_config("budget", length_exponent=0.9))
    assert "wants a lower LR: 0.12 (best over 20 steps) times 0.25 for the decay over " in words
    assert " steps is 0.03. Next came " in words


def test_an_lr_that_the_users_counted_for_is_said_to_be_drawn_towards_it(searched: Stage) -> None:
    drawn = _with_decision(searched, lr=0.05, optimum=0.12, correction=0.25, drawn_to=0.1)
    assert " steps is 0.03. Drawn towards the 0.1 that was set, it became 0.05." in why(drawn, BUDGET)
    uncorrected = _with_decision(searched, lr=0.11, optimum=0.12, correction=1.0, drawn_to=0.1)
    words = "LR 0.12 was best over 20 steps. Drawn towards the 0.1 that was set, it became 0.11."
    assert words in why(uncorrected, BUDGET)
    nearly = _with_decision(searched, lr=0.0305, optimum=0.12, correction=0.25, drawn_to=None)
    assert "Drawn towards" not in why(nearly, BUDGET)


def test_an_lr_that_was_lowered_for_earlier_setbacks_is_said_to_be(searched: Stage) -> None:
    values = {"lr": 0.0095, "optimum": 0.12, "correction": 0.25, "lowered_by": 3.16}
    words = why(_with_decision(searched, **values, drawn_to=None), BUDGET)
    assert " steps is 0.03. As steps at higher LRs had been rolled back, it was lowered further, to 0.0095." in words
    assert "Drawn towards" not in words
    both = why(_with_decision(searched, **values, drawn_to=0.1), BUDGET)
    assert (
        " steps is 0.03. Drawn towards the 0.1 that was set, and lowered further as steps at higher LRs had been "
        "rolled back, it became 0.0095."
    ) in both


@pytest.mark.parametrize(
    ("n_setbacks", "words"),
    [
        (0, "Drawn towards the 0.1 that was set, it became 0.0095."),
        (2, "As steps at higher LRs had been rolled back, it was lowered further, to 0.0095."),
    ],
)
def test_what_moved_an_lr_is_inferred_where_the_former_version_did_not_tell(
    searched: Stage, n_setbacks: int, words: str
) -> None:
    values = {"lr": 0.0095, "optimum": 0.12, "correction": 0.25, "asked": None, "drawn_to": None, "lowered_by": None}
    former = dataclasses.replace(_with_decision(searched, **values), n_setbacks=n_setbacks)
    assert f" steps is 0.03. {words}" in why(former, BUDGET)


@pytest.mark.parametrize("n_setbacks", [0, 2])
def test_nothing_is_inferred_of_a_decision_that_tells_what_it_asked(searched: Stage, n_setbacks: int) -> None:
    told = _with_decision(searched, lr=0.0095, optimum=0.12, correction=0.25, drawn_to=None, reason="a reason")
    words = why(dataclasses.replace(told, n_setbacks=n_setbacks), BUDGET)
    assert " steps is 0.03. LR 0.0095 was committed: a reason. Next came " in words


@pytest.mark.parametrize("optimum", [None, 0.07])
def test_a_decision_that_tells_no_correction_has_none(searched: Stage, optimum: float | None) -> None:
    correction = None if optimum is None else 1.0
    told = _with_decision(searched, lr=0.07, optimum=optimum, correction=correction, reason="a reason")
    words = why(told, BUDGET)
    assert "A longer run" not in words
    expected = ": a reason." if optimum is None else "; the loss is expected to be lowest there."
    assert f"LR 0.07 was committed{expected}" in words


def test_what_the_run_is_held_to_is_told(searched: Stage) -> None:
    told = _with_decision(searched, forecast=-0.82, forecast_sd=0.02)
    assert (
        "The search expects a probe at the best LR to end at −0.820 ± 0.020; the run, which is longer, is held to that."
        in why(told, BUDGET)
    )
    assert "held to" not in why(_with_decision(searched, forecast=None, forecast_sd=None), BUDGET)


@pytest.mark.parametrize("job", [BUDGET, config(800, **QUICK)], ids=["budget", "autolrs"])
def test_where_all_probes_diverged_it_says_how_the_lr_lies_to_theirs(job: JobConfig) -> None:
    stage = timeline(history(drive(job, NoNumbersAfterAStep(), max_directives=8))).stages[0]
    words = "All diverged, so LR {}, {}, is the safe choice."
    assert words.format(number(stage.lr), "below what was tried") in why(stage, job)
    lowest = min(candidate.lr for candidate in stage.candidates)
    at_it = why(_with_decision(stage, lr=lowest), job)
    assert words.format(number(lowest), "the lowest that was tried") in at_it


def test_a_decision_after_the_client_was_away_is_explained_by_the_probes_before() -> None:
    run = drive(BUDGET, SimulatedTraining(validates=True), alone_after=4)
    words = why(timeline(history(run)).stages[-1], BUDGET)
    assert words.startswith("4 probes tried LRs from ")
    assert "A longer run wants a lower LR: " in words


def test_a_forecast_is_compared_with_the_actual_loss(forecast: Stage) -> None:
    best = forecast.best
    assert best is not None
    assert best.forecast is not None
    assert best.forecast_sd is not None
    assert actual_end(forecast) == forecast.end_loss
    words = why(forecast, FORECASTS)
    assert f"The forecast for its end was {with_error(best.forecast, best.forecast_sd)}; " in words
    assert f"the actual loss was {number(forecast.end_loss)}" in words


def test_a_near_tie_has_the_digits_that_tell_it_apart(searched: Stage) -> None:
    tied = _with_candidates(searched, _candidate(searched, 2.33041), _candidate(searched, 2.33043, lr=0.2))
    words = why(tied, BUDGET)
    assert "the lowest loss, 2.33041." in words
    assert "Next came 0.2 with 2.33043." in words


def test_forecasts_that_a_bound_made_equal_are_said_to_be_bounded(forecast: Stage) -> None:
    low = _candidate(forecast, 0.0, 0.7, raw=-0.5)
    words = why(_with_candidates(forecast, low, _candidate(forecast, 0.0, 0.7, raw=-0.2, lr=0.2)), FORECASTS)
    assert "LR 0.1 forecast the lowest loss: its curve fell below 0, their bound." in words
    assert "Next came 0.2 with the same bound." in words


def test_which_lrs_diverged_is_a_sentence(searched: Stage) -> None:
    lost = [Candidate(directive_number=99, lr=lr, at_least=9.0) for lr in (1.0, 0.5)]
    best = _candidate(searched, 1.0)
    assert "LRs 0.5 and 1 diverged." in why(_with_candidates(searched, best, *lost), BUDGET)
    assert "LR 0.5 diverged." in why(_with_candidates(searched, best, lost[1]), BUDGET)


def test_a_search_whose_probes_all_diverged_says_so(searched: Stage) -> None:
    lost = [Candidate(directive_number=c.directive_number, lr=c.lr, at_least=9.0) for c in searched.candidates]
    assert "All diverged" in why(_with_candidates(searched, *lost), BUDGET)


def test_a_lower_lr_after_a_divergence_says_which_one_diverged(diverging: tuple[Stage, ...]) -> None:
    first, second, *_ = diverging
    assert why(second, BUDGET).startswith(
        f"LR {number(first.lr)} had diverged. Its steps were rolled back, and a lower LR, {number(second.lr)}, took "
    )
    assert "e-0" not in why(diverging[-1], BUDGET)
    assert why_restarts(diverging[1:-1]).startswith(f"{len(diverging) - 2} times the committed steps diverged once")


def _unsearched(
    stage: Stage, phase: Phase, profile: Profile, *, rejoins: bool = False, decision: Decision | None = None
) -> str:
    reason = "too few steps are left for a search"
    directive = Directive(number=1, phase=phase, n_steps=profile.length, profile=profile, reason=reason)
    return why(dataclasses.replace(stage, directive=directive, decision=decision, rejoins=rejoins), BUDGET)


def test_what_was_not_searched_for_says_where_it_comes_from(searched: Stage) -> None:
    constant = Profile.constant(0.1, 1200)
    assert _unsearched(searched, Phase.TRAIN, constant).startswith("1\u202f200 steps are too few for a search")
    assert _unsearched(searched, Phase.TRAIN, constant).endswith(", so they have the LR that was set.")
    assert _unsearched(searched, Phase.TRAIN, Profile.constant(0.2, 9)).endswith(", so they have LR 0.2.")
    back = _unsearched(searched, Phase.TRAIN, constant, rejoins=True)
    assert back.startswith("The client was back")
    assert back.endswith("so it has the LR that was set.")
    decision = Decision(stage=0, lr=0.01, reason="lowered", lowered_by=10.0)
    lowered = _unsearched(searched, Phase.TRAIN, constant, rejoins=True, decision=decision)
    assert lowered.endswith("so it has an LR that is well below those that failed.")


def test_a_warm_up_says_where_it_leads() -> None:
    run: Run = drive(config(800, warmup_steps=20, **QUICK), SimulatedTraining(), max_directives=2)
    (stage, *_) = timeline(history(run)).stages
    assert why(stage, FORECASTS) == "A linear warm-up to LR 0.1 over 20 steps."


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (BUDGET, "The search has begun with LR "),
        (config(2000, bounds=False, **QUICK), "The search has begun with a range test: "),
    ],
)
def test_a_search_that_has_begun_says_with_what(job: JobConfig, words: str) -> None:
    stage = timeline(history(drive(job, SimulatedTraining(validates=job.has_validation), max_directives=0))).stages[0]
    assert why(stage, job).startswith(words)


def test_a_stage_whose_search_ended_since_a_rollback_failed_says_so() -> None:
    run = drive(BUDGET, LeakingTraining(validates=True), alone_after=3)
    first, alone, last = timeline(history(run)).stages
    assert why(first, BUDGET).startswith("The search ended here, and no probe tells anything")
    assert why(first, BUDGET).endswith(NOTE)
    assert why(alone, BUDGET).startswith("The client could not reach the server")
    assert "there was no search" in why(last, BUDGET)
    assert [probe.unrepeatable for probe in first.probes] == [False, True]
    assert (first.posterior, first.winner) == (None, None)
