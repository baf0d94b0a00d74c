from __future__ import annotations

import dataclasses
import math

import pytest

from tests.support.jobs.broken_promises import DyingTraining, OverfittingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import drive
from tuner_server.core.messages import Outcome, Setback
from tuner_server.history.stage import Stage, Undoing
from tuner_server.history.timeline import timeline
from tuner_server.history.words.setback import setback

SHORT = Undoing(Outcome.FELL_SHORT, 0.3, first_step=150, last_step=200, loss=2.3, bar=1.72)


@pytest.fixture(scope="module")
def stage() -> Stage:
    """That follows on committed steps which fell short."""
    return timeline(history(drive(job_config("dying"), DyingTraining(validates=True)))).stages[1]


def _with_setback(stage: Stage, known: Setback | None) -> Stage:
    assert stage.decision is not None
    assert stage.directive is not None
    decision = stage.decision.model_copy(update={"setback": known})
    directive = stage.directive.model_copy(update={"n_steps": 800})
    assert directive.profile is not None
    profile = dataclasses.replace(directive.profile, start_lr=0.095)
    return dataclasses.replace(stage, decision=decision, directive=directive.model_copy(update={"profile": profile}))


def test_a_setback_tells_its_evidence_and_what_came_next(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=2.3, bar=1.72, start_loss=2.31, gain=1.19)
    assert setback(_with_setback(stage, known), SHORT) == (
        "LR 0.3 was committed, and its steps 150 to 200 had a median loss of 2.3. The best probe had come from 2.31 to "
        "1.12, so at least 50% of that was promised by then: a loss below 1.72. The run was rolled back, and 0.095 "
        "took the 800 steps that were left."
    )


def test_a_run_that_lost_what_it_had_reached_itself_is_told_so(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=1.4, bar=0.77, start_loss=2.3, gain=1.8, reached=0.5)
    assert setback(_with_setback(stage, known), dataclasses.replace(SHORT, loss=1.4, bar=0.77, reached=0.5)) == (
        "LR 0.3 was committed, and its steps 150 to 200 had a median loss of 1.4. Before that it had come down to 0.5, "
        "so 50% of what it had gained was lost again. The run was rolled back, and 0.095 took the 800 steps that were "
        "left."
    )


def test_a_run_that_rose_above_its_start_has_lost_all_and_not_more(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=2.9, bar=0.77, start_loss=2.3, gain=1.8, reached=0.5)
    words = setback(_with_setback(stage, known), dataclasses.replace(SHORT, loss=2.9, bar=0.77, reached=0.5))
    assert "Before that it had come down to 0.5, so all that it had gained was lost again." in words


def test_a_lower_lr_that_did_not_help_is_said_not_to_be_the_cause(stage: Stage) -> None:
    known = Setback(lr=0.03, loss=1.4, bar=0.77, start_loss=2.3, gain=1.8, reached=0.5)
    undoing = dataclasses.replace(SHORT, lr=0.03, loss=1.4, bar=0.77, reached=0.5)
    words = setback(_with_setback(stage, known), undoing)
    assert words.endswith(
        "It rose as far as it had at a higher LR, so the LR is not the cause. The run was rolled back, and that LR, "
        "0.095, took the 800 steps that were left."
    )


def test_losses_may_be_below_zero(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=-1.7, bar=-2.28, start_loss=-1.69, gain=1.19)
    below = dataclasses.replace(SHORT, loss=-1.7, bar=-2.28)
    words = setback(_with_setback(stage, known), below)
    assert "had a median loss of −1.7. The best probe had come from −1.69 to −2.88, so at least 50% of that" in words
    assert ": a loss below −2.28." in words


def test_validations_that_were_too_high_are_told_as_such(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=2.3, bar=1.72, start_loss=2.31, gain=1.19, validated=True)
    words = setback(_with_setback(stage, known), dataclasses.replace(SHORT, validated=True))
    assert words.startswith(
        "LR 0.3 was committed, and after 200 steps a second validation in a row was too high: 2.3. The best probe had "
        "come from 2.31 to 1.12, so at least 50% of that was promised by then: a loss below 1.72. The run was"
    )


def test_training_losses_are_not_held_against_validations(stage: Stage) -> None:
    known = Setback(lr=0.3, loss=2.3, bar=1.72, start_loss=2.31, gain=1.19)
    words = setback(_with_setback(stage, known), dataclasses.replace(SHORT, validated=True))
    assert "too high: 2.3. By then a loss below 1.72 was promised. The run was rolled back" in words


@pytest.mark.parametrize(
    "known",
    [None, Setback(lr=0.3, loss=2.3, bar=1.72), Setback(lr=0.3, loss=2.3, start_loss=1.7, gain=1.19)],
)
def test_what_is_not_known_of_the_search_is_not_told(stage: Stage, known: Setback | None) -> None:
    """The last one's noise is so large that the bar is above where the search began."""
    words = setback(_with_setback(stage, known), SHORT)
    assert "a median loss of 2.3. By then a loss below 1.72 was promised. The run was rolled back" in words


def test_without_a_bar_nothing_is_said_to_have_been_promised(stage: Stage) -> None:
    words = setback(_with_setback(stage, None), dataclasses.replace(SHORT, bar=None))
    assert "a median loss of 2.3. The run was rolled back, and 0.095 took" in words


def test_a_mean_just_above_its_bar_has_the_digits_that_tell_them_apart(stage: Stage) -> None:
    words = setback(_with_setback(stage, None), dataclasses.replace(SHORT, loss=1.7204, bar=1.7203))
    assert "a median loss of 1.7204. By then a loss below 1.7203 was promised." in words


def test_the_bar_is_the_one_that_counted_at_these_steps(stage: Stage) -> None:
    undoing = stage.retreats_from
    assert undoing is not None
    assert undoing.bar is not None
    assert undoing.loss is not None
    assert math.isfinite(undoing.bar)
    assert stage.decision is not None
    known = stage.decision.setback
    assert known is not None
    assert (undoing.bar, undoing.reached) == (known.bar, known.reached)
    assert undoing.reached is not None
    assert f"had come down to {undoing.reached:.3g}" in setback(stage, undoing)
    assert f"a median loss of {undoing.loss:.3g}" in setback(stage, undoing)


def test_a_run_whose_validations_fell_short_tells_both_of_them() -> None:
    stages = timeline(history(drive(job_config("overfitting"), OverfittingTraining()))).stages
    undoing = stages[0].undoing
    assert undoing is not None
    assert (undoing.validated, undoing.loss) == (True, 2.5)
    assert stages[1].decision is not None
    known = stages[1].decision.setback
    assert known is not None
    assert (known.loss, known.bar) == (undoing.loss, undoing.bar)
    words = setback(stages[1], undoing)
    assert (
        f"after {undoing.last_step} steps a second validation in a row was too high: 2.5. The best probe had" in words
    )
    assert "of that was promised by then" in words
