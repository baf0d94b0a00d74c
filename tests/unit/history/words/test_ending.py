"""Which weights a run ended with, as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs.budget_jobs import PLAIN, config
from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tuner_server.core.messages import Ending, Weights
from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.timeline import timeline
from tuner_server.history.words.ending import ended_with
from tuner_server.history.words.headline import headline
from tuner_server.history.words.promise import Promise
from tuner_server.history.words.verdict import Tone, verdict

AVERAGE, LAST = Weights.AVERAGE, Weights.LAST


ADOPTED = "The average of the last 149 steps was adopted"
ADOPTED_AT = f"{ADOPTED}: it validated at"
STAYED = "The last weights stayed"


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (
            {"adopted": AVERAGE, "last": 0.085, "average": 0.083},
            f"{ADOPTED_AT} 0.083, the last weights at 0.085.",
        ),
        (
            {"adopted": AVERAGE, "last": 0.08312, "average": 0.08311},
            f"{ADOPTED_AT} 0.08311, the last weights at 0.08312.",
        ),
        ({"adopted": AVERAGE}, f"{ADOPTED}."),
        (
            {"adopted": AVERAGE, "average": 0.083},
            f"{ADOPTED_AT} 0.083; the last weights have no validation.",
        ),
        (
            {"adopted": LAST, "last": 0.083, "average": 0.085},
            f"{STAYED}: they validated at 0.083, the average of the last 149 steps at 0.085.",
        ),
        ({"adopted": LAST, "last": 0.083}, f"{STAYED}: their average has no validation."),
    ],
)
def test_both_losses_are_told_apart(ending: dict[str, Any], words: str) -> None:
    assert ended_with(Ending(memory_steps=148.8, **ending)) == words


def test_a_run_without_an_average_says_nothing_of_one() -> None:
    assert ended_with(None) == ""
    run = drive(config(800, has_validation=True, **PLAIN), SimulatedTraining(validates=True))
    assert "weights" not in headline(run.state, timeline(history(run)))


def ended(gain: float, **options: Any) -> Run:
    asked = config(800, has_validation=True, has_average=True, ending="averaged", **PLAIN | options)
    return drive(asked, SimulatedTraining(validates=True, average_gain=gain))


@pytest.mark.parametrize(("gain", "words"), [(0.1, "The average of the last "), (-0.1, "The last weights stayed: ")])
def test_a_job_s_headline_says_which_weights_it_ended_with(gain: float, words: str) -> None:
    run = ended(gain)
    assert words in headline(run.state, timeline(history(run)))


def test_the_end_that_is_held_to_the_promise_is_that_of_the_weights_that_were_adopted() -> None:
    for gain, what in ((0.1, "The validation of the average of the weights is "), (-0.1, "The last validation is ")):
        run = ended(gain)
        found = timeline(history(run))
        promise = Promise.of(found)
        assert promise is not None
        assert promise.end == pytest.approx(run.state.last_validation)
        assert promise.words.startswith(what)
        assert verdict(run.state, found).tone is Tone.GOOD


def test_the_schedule_has_the_ending() -> None:
    run = ended(0.1)
    found = data_of_schedule(stored(run.state), history(run)).ending
    assert found is not None
    assert run.state.ending is not None
    assert (found.adopted, found.average) == (Weights.AVERAGE, run.state.ending.average)
