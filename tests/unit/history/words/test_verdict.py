from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pytest

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.incomplete_rollback import NOTE, LeakingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tuner_server.core.job import machine
from tuner_server.core.job.life import Life, Vitals
from tuner_server.core.job.machine import Status
from tuner_server.history.thinning import FloatArray
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.numbers import number
from tuner_server.history.words.verdict import Tone, verdict


def _with_losses(found: Timeline, losses: FloatArray) -> Timeline:
    """The same job, with one report of such losses."""
    kept = next(span for span in found.spans if span.kept)
    span = dataclasses.replace(kept, start=0, losses=losses.astype(np.float32))
    return Timeline((span,), found.stages)


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
    assert verdict(machine.cancel(training.state, "wrong data"), found).why == "wrong data"


def test_a_divergence_is_told_until_steps_at_a_lower_lr_are_reported() -> None:
    def run(max_directives: int) -> Run:
        training = SimulatedTraining(edge_lr=1e-6, validates=True)
        return drive(job_config("budget"), training, max_directives=max_directives)

    restores = [exchange.directive.restore and exchange.directive.phase.committed for exchange in run(50).exchanges]
    first = restores.index(True, restores.index(True) + 1)  # the decay begins at the weights before the last probe, too
    words = [verdict(found.state, timeline(history(found))).words for found in (run(first - 1), run(first))]
    assert words == ["Loss is rising", "Diverged"]
    assert verdict((later := run(first + 1)).state, timeline(history(later))).words != "Diverged"


def test_a_job_that_came_down_is_well(finished: Run) -> None:
    assert verdict(finished.state, timeline(history(finished))).tone is Tone.GOOD


@pytest.mark.parametrize("losses", [np.full(500, 2.0), np.linspace(2.0, 2.5, 500)])
def test_a_job_that_got_nowhere_is_bad(finished: Run, losses: FloatArray) -> None:
    found = verdict(finished.state, _with_losses(timeline(history(finished)), losses))
    assert (found.tone, found.words) == (Tone.BAD, "Finished, not lower")


def test_a_loss_that_is_lower_by_its_noise_alone_is_not_lower(finished: Run) -> None:
    losses = 2.0 + 0.1 * np.random.default_rng(1).standard_normal(500)
    losses[-20:] += losses[:20].mean() - losses[-20:].mean() - 0.001
    assert verdict(finished.state, _with_losses(timeline(history(finished)), losses)).tone is Tone.BAD


def test_an_end_far_above_the_best_is_no_good_end_but_noise_is(finished: Run) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(2000)
    found = timeline(history(finished))
    falls = np.linspace(3.0, 1.0, 2000)
    assert verdict(finished.state, _with_losses(found, falls + noise)).tone is Tone.GOOD
    rises = np.where(np.arange(2000) < 1500, falls, 2.0)
    said = verdict(finished.state, _with_losses(found, rises + noise))
    assert (said.tone, said.words) == (Tone.WARNING, "Finished, above its best")


def test_a_job_that_gave_nearly_all_back_is_bad_however_its_loss_fell(finished: Run) -> None:
    found = timeline(history(finished))
    kept = dataclasses.replace(found.stages[0].spans[0], start=0, losses=np.linspace(2.0, 1.0, 50, dtype=np.float32))
    lost = dataclasses.replace(kept, start=50, kept=False, losses=np.ones(3950, dtype=np.float32))
    state = finished.state.model_copy(update={"committed_steps": 50, "search_steps": 3950, "given_back_steps": 3950})
    said = verdict(state, Timeline((kept, lost), found.stages))
    assert said.tone is Tone.BAD
    assert said.why == "3\u202f950 of 4\u202f000 steps were rolled back."


def test_what_nearly_nothing_was_left_of_has_its_cause() -> None:
    run = drive(job_config("budget"), SimulatedTraining(edge_lr=1e-6, validates=True))
    found = timeline(history(run))
    books = {"committed_steps": 50, "search_steps": 3950, "given_back_steps": 3900}
    said = verdict(run.state.model_copy(update=books), found)
    assert said.words == "Finished, with nearly nothing"
    assert said.why.endswith(f" were rolled back after {len(found.stages) - 1} divergences.")


def _forecasting(found: Timeline, loss: float | None, sd: float = 0.1) -> Timeline:
    """The same job, had its search expected another loss."""
    first, *others = found.stages
    assert first.decision is not None
    decision = first.decision.model_copy(update={"forecast": loss, "forecast_sd": sd})
    return dataclasses.replace(found, stages=(dataclasses.replace(first, decision=decision), *others))


@pytest.mark.parametrize(
    ("loss", "tone", "words"),
    [
        (0.82, Tone.GOOD, "Finished, as promised"),
        (0.05, Tone.GOOD, "Finished, as promised"),
        (-0.2, Tone.BAD, "Finished above what its search promised"),
        (None, Tone.GOOD, "Finished"),
    ],
)
def test_an_end_is_held_against_what_the_search_promised(
    finished: Run, loss: float | None, tone: Tone, words: str
) -> None:
    said = verdict(finished.state, _forecasting(timeline(history(finished)), loss))  # it ends at 0.11
    assert (said.tone, said.words) == (tone, words)


def test_no_lower_is_worse_than_above_what_was_promised(finished: Run) -> None:
    found = _forecasting(timeline(history(finished)), -0.2)
    assert verdict(finished.state, _with_losses(found, np.full(500, 2.0))).words == "Finished, not lower"


def test_a_run_that_was_rolled_back_and_then_ended_well_says_so() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    found = timeline(history(run))
    said = verdict(run.state, found)
    lrs = [number(stage.lr) for stage in found.stages]
    assert (said.tone, said.words) == (Tone.GOOD, "Finished, as promised, at a lower LR")
    assert said.why.endswith(f"LRs {lrs[0]} and {lrs[1]} had fallen short before, and were rolled back.")


def test_a_run_that_was_rolled_back_in_vain_says_so_too() -> None:
    run = drive(job_config("dying"), DyingTraining(validates=True, deadly_lr=0.004))
    said = verdict(run.state, timeline(history(run)))
    assert (said.tone, said.words) == (Tone.BAD, "Finished, not lower")
    assert said.why.endswith("had fallen short before, and were rolled back.")


def test_that_steps_fell_short_is_told_until_steps_at_a_lower_lr_are_reported() -> None:
    def said(max_directives: int) -> str:
        run = drive(job_config("dying"), DyingTraining(validates=True), max_directives=max_directives)
        return verdict(run.state, timeline(history(run))).words

    run = drive(job_config("dying"), DyingTraining(validates=True))
    short = [exchange.report is not None and exchange.report.outcome == "fell_short" for exchange in run.exchanges]
    n_directives = short.index(True) + 1
    assert [said(n_directives), said(n_directives + 1)] == ["Fell short", "Loss is falling"]
    assert said(n_directives - 1) != "Fell short"


@pytest.mark.parametrize(("total_steps", "tone"), [(400, Tone.NEUTRAL), (600, Tone.GOOD)])
def test_a_run_without_a_search_is_neither_good_nor_bad(total_steps: int, tone: Tone) -> None:
    run = drive(job_config("short", total_steps=total_steps), SimulatedTraining(validates=True))
    said = verdict(run.state, timeline(history(run)))
    assert said.tone is tone
    if tone is Tone.NEUTRAL:
        assert said.words == "Finished, without a search"
        assert not said.why, "the headline says it"


def test_a_run_without_a_search_that_got_nowhere_is_bad() -> None:
    run = drive(job_config("short", total_steps=400), SimulatedTraining(validates=True))
    found = dataclasses.replace(_with_losses(timeline(history(run)), np.full(400, 2.0)), unsearched=run.directives[0])
    assert verdict(run.state, found).words == "Finished, not lower"


@pytest.mark.parametrize("max_directives", [4, 8, 10_000])
def test_that_a_rollback_failed_is_told_whatever_else_is_with_what_the_client_saw(max_directives: int) -> None:
    run = drive(job_config("leaking"), LeakingTraining(validates=True), max_directives=max_directives)
    said = verdict(run.state, timeline(history(run)))
    assert (said.tone, said.words.endswith("; a rollback failed")) == (Tone.WARNING, True)
    assert said.why.endswith(f"The client says: {NOTE}")
    failed = run.state.model_copy(update={"status": Status.FAILED})
    assert verdict(failed, timeline(history(run))).tone is Tone.BAD


@pytest.mark.parametrize(
    ("life", "words", "tone"),
    [
        (Life.SILENT, "Silent for 12 minutes", Tone.WARNING),
        (Life.STOPPED, "Stopped 12 minutes ago", Tone.NEUTRAL),
        (Life.ABANDONED, "Abandoned for 12 minutes", Tone.BAD),
    ],
)
def test_nothing_goes_well_where_nobody_trains(training: Run, life: Life, words: str, tone: Tone) -> None:
    found = timeline(history(training))
    falling = _with_losses(found, np.linspace(2, 1, 2000))
    said = verdict(training.state, falling, Vitals(life, timedelta(minutes=12)))
    assert (said.words, said.tone) == (words, tone)
    assert said.why.startswith("When it was last heard of: loss is falling. Mean of the last")
    assert verdict(training.state, falling, Vitals(Life.ALIVE)).tone is Tone.GOOD
