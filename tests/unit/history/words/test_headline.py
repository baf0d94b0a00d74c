from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import Outcome, Phase
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.headline import headline, led_to, rolled_back
from tuner_server.history.words.numbers import number, steps


@pytest.fixture(scope="module")
def staged() -> Run:
    return drive(config(800, **QUICK), SimulatedTraining())


def test_a_finished_job_says_what_its_lr_did_how_far_its_loss_came_and_what_the_search_cost(finished: Run) -> None:
    state, found = finished.state, timeline(history(finished))
    words = headline(state, found)
    assert words.startswith("Finished after ")
    assert f"The LR rose to {number(found.peak_lr)}, then fell to 0 along a line." in words
    assert f"The loss went from {number(state.first_loss)} to {number(state.last_loss)}." in words, "as its card has it"
    share = 100 * state.search_steps / (state.search_steps + state.committed_steps)
    assert f"{share:.1f}% of the 4\u202f000 steps went into search." in words


def test_a_running_job_says_where_its_lr_is_and_where_it_goes(training: Run) -> None:
    profile = training.state.directive.profile
    assert profile is not None
    words = headline(training.state, timeline(history(training)))
    assert (
        f"Training at LR {number(profile.lr(0))}, falling from {number(profile.start_lr)} to 0 along a line." in words
    )


def test_a_job_whose_client_is_not_there_was_doing_what_it_did(training: Run, finished: Run) -> None:
    found = timeline(history(training))
    assert headline(training.state, found, left_alone=True).startswith("It was training at LR ")
    ended = finished.state, timeline(history(finished))
    assert headline(*ended, left_alone=True) == headline(*ended)


def test_a_job_whose_lr_still_rises_says_so() -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True))
    state = next(iter(run.of(Phase.TRAIN)))
    assert state.directive.profile is not None
    live = run.state.model_copy(update={"status": Status.TRAINING, "directive": state.directive})
    words = headline(live, Timeline((), ()))
    assert f", rising to {number(state.directive.profile.start_lr)}, then falling to 0 along a line." in words


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (Profile(Shape.LINEAR, 0.1, 0.2, 100), ", rising from 0.1 to 0.2 along a line."),
        (Profile(Shape.LINEAR, 0.1, 0.2, 100, warmup=10), ", rising to 0.1, then to 0.2 along a line."),
        (Profile(Shape.COSINE, 0.1, 0.1, 100, warmup=10), ", rising to 0.1."),
        (Profile(Shape("one_cycle"), 0.1, 0.0, 100), ", rising to 0.1, then falling to 4×10⁻⁷ over one cycle."),
        (Profile(Shape("one_cycle"), 0.1, 0.0, 100, 50), ", falling from 0.1 to 4×10⁻⁷ over one cycle."),
        (Profile(Shape("floored/rex", (0.2,)), 0.1, 0.0, 100), ", falling from 0.1 to 0.02 along REX."),
    ],
)
def test_a_job_says_where_its_lr_goes(profile: Profile, words: str) -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True))
    (train,) = run.of(Phase.TRAIN)[:1]
    directive = train.directive.model_copy(update={"n_steps": 100, "profile": profile})
    live = run.state.model_copy(update={"status": Status.TRAINING, "directive": directive})
    assert words in headline(live, Timeline((), ()))


def test_a_search_says_what_it_tries_and_what_was_committed_before(staged: Run) -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=1)
    assert "trying LR 0.1, to be rolled back" in headline(run.state, timeline(history(run)))

    run = drive(config(800, **QUICK), SimulatedTraining(), max_directives=5)
    (stage, _) = timeline(history(run)).stages
    assert run.state.status is Status.SEARCHING
    assert f"1 stage so far, at LR {number(stage.lr)}." in headline(run.state, timeline(history(run)))


def test_a_job_without_steps_does_not_say_that_none_went_into_search() -> None:
    run = drive(job_config("budget"), SimulatedTraining(), max_directives=0)
    words = headline(run.state, timeline(history(run)))
    assert words == "Searching: trying LR 0.01, to be rolled back. No steps have been reported yet."


def test_several_stages_say_from_where_to_where_the_lr_went(staged: Run) -> None:
    found = timeline(history(staged))
    lrs = [stage.lr for stage in found.stages if stage.lr is not None]
    first, last = lrs[0], lrs[-1]
    words = headline(staged.state, found)
    assert len(found.stages) > 2
    expected = f"{len(lrs)} stages: LR {number(first)} {'down' if last < first else 'up'} to {number(last)}"
    assert expected in words
    beyond = min(lrs) < min(first, last) or max(lrs) > max(first, last)
    assert (f", between {number(min(lrs))} and {number(max(lrs))}" in words) is beyond


def _one_stage(finished: Run, profile: Profile, n_steps: int) -> tuple[JobState, Timeline]:
    """The finished job, had its committed steps been `n_steps` of such a profile."""
    found = timeline(history(finished))
    span = dataclasses.replace(found.stages[0].spans[0], profile=profile, losses=np.ones(n_steps, dtype=np.float32))
    stage = dataclasses.replace(found.stages[0], spans=(span,))
    return finished.state, Timeline((span,), (stage,))


@pytest.mark.parametrize(
    ("shape", "end_lr", "warmup", "n_steps", "words"),
    [
        (Shape.COSINE, 0.0, 10, 100, "The LR rose to 0.2, then fell to 0 along a cosine."),
        (Shape.COSINE, 0.0, 0, 50, "The LR fell from 0.2 to 0.103 along a cosine."),
        (Shape.LINEAR, 0.0, 10, 5, "The LR rose to 0.0909."),
        (Shape.CONSTANT, 0.2, 10, 50, "The LR rose to 0.2, and stayed there."),
        (Shape.CONSTANT, 0.2, 0, 50, "The LR stayed at 0.2."),
        (Shape.EXPONENTIAL, 0.01, 0, 100, "The LR fell from 0.2 to 0.01 exponentially."),
        (Shape.LINEAR, 0.4, 0, 100, "The LR rose from 0.2 to 0.4 along a line."),
        (Shape.LINEAR, 0.4, 10, 100, "The LR rose to 0.2, then to 0.4 along a line."),
        (Shape.LINEAR, 0.2, 0, 100, "The LR stayed at 0.2."),
        (Shape("one_cycle"), 0.0, 0, 20, "The LR rose to 0.143."),
        (Shape("one_cycle"), 0.0, 0, 100, "The LR rose to 0.2, then fell to 8×10⁻⁷ over one cycle."),
        (Shape("wsd", (0.2,)), 0.0, 0, 50, "The LR stayed at 0.2."),
        (Shape("wsd", (0.2,)), 0.0, 10, 100, "The LR rose to 0.2, then fell to 0 along a line after a plateau."),
        (Shape("half_life"), 0.0, 0, 100, "The LR fell from 0.2 to 0.0125 by halves."),
    ],
)
def test_what_the_lr_did_is_what_was_run(
    finished: Run, shape: Shape, end_lr: float, warmup: int, n_steps: int, words: str
) -> None:
    profile = Profile(shape, 0.2, end_lr, 100, warmup=warmup)
    assert words in headline(*_one_stage(finished, profile, n_steps))


def test_a_decay_at_the_end_of_several_stages_is_told() -> None:
    run = drive(config(800, final_decay=True, **QUICK), SimulatedTraining())
    assert "; in the last it fell to 0 along a line." in headline(run.state, timeline(history(run)))


def test_steps_that_were_given_back_are_not_called_search() -> None:
    run = drive(job_config("budget"), SimulatedTraining(edge_lr=1e-6, validates=True))
    found = timeline(history(run))
    searched = sum(stage.search_steps for stage in found.stages)
    divergences = sum(stage.undoing is not None for stage in found.stages)
    words = headline(run.state, found)
    assert divergences > 1
    assert f"{100 * searched / 4000:.1f}% of the 4\u202f000 steps went into search." in words
    assert f"{steps(run.state.given_back_steps)} were rolled back after {divergences} divergences." in words


def test_what_was_rolled_back_has_its_causes() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    found = timeline(history(run))
    stages = [stage for stage in found.stages if stage.undoing is not None]
    assert len(stages) == 2
    assert "200 steps were rolled back after 2 broken promises." in headline(run.state, found)
    assert rolled_back(1, stages[:1]) == "1 step was rolled back after a broken promise."
    *spans, last = stages[0].spans
    diverged = dataclasses.replace(stages[0], spans=(*spans, dataclasses.replace(last, outcome=Outcome.DIVERGED)))
    assert rolled_back(9, [diverged, *stages]) == "9 steps were rolled back after a divergence and 2 broken promises."
    assert rolled_back(9, found.stages[-1:]) == "9 steps were rolled back.", "by a history that is some steps older"


@pytest.mark.parametrize(
    ("decay", "max_directives", "words"),
    [
        ("linear", 0, "No search: 400 steps are too few for one, so the LR decays from the 0.1 that was set."),
        ("linear", 99, "No search: 400 steps are too few for one, so the LR decayed from the 0.1 that was set."),
        ("constant", 3, "No search: 400 steps are too few for one, so the LR stays at the 0.1 that was set."),
        ("constant", 99, "No search: 400 steps are too few for one, so the LR stayed at the 0.1 that was set."),
    ],
)
def test_a_run_that_is_too_short_for_a_search_says_so_from_its_beginning(
    decay: str, max_directives: int, words: str
) -> None:
    short = job_config("short", total_steps=400, decay=decay)
    run = drive(short, SimulatedTraining(validates=True), max_directives=max_directives)
    assert headline(run.state, timeline(history(run))).endswith(words)


def test_an_end_says_why_and_how_far_the_lr_came(training: Run) -> None:
    found = timeline(history(training))
    way = f"then fell to {number(found.last_lr)} along a line."
    failed = training.state.model_copy(update={"status": Status.FAILED, "message": "policy budget: a bug"})
    assert "policy budget: a bug" in headline(failed, found)
    assert way in headline(failed, found)
    assert way in headline(machine.cancel(training.state, "wrong data"), found)


def test_what_led_to_the_lr_is_told_in_a_sentence(finished: Run, staged: Run) -> None:
    found = timeline(history(finished))
    (stage,) = [stage for stage in found.stages if stage.candidates]
    lrs = sorted(candidate.lr for candidate in stage.candidates)
    assert led_to(found) == (
        f"{len(lrs)} probes, of LRs from {number(lrs[0])} to {number(lrs[-1])}, led to {number(stage.lr)}."
    )
    assert led_to(timeline(history(staged))).startswith("The latest ")
    assert led_to(Timeline((), ())) == ""
