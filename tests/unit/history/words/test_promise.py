from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, Run, SimulatedTraining, config, drive
from tuner_server.core.config import JobConfig
from tuner_server.history.timeline import timeline
from tuner_server.history.words.numbers import with_error
from tuner_server.history.words.promise import END_LOSSES, Promise


def test_where_probes_were_judged_by_validation_the_last_validation_is_the_end(finished: Run) -> None:
    found = timeline(history(finished))
    promise = Promise.of(found)
    decision = found.stages[0].decision
    assert promise is not None
    assert decision is not None
    assert (promise.end, promise.end_error) == (finished.state.last_validation, 0.0)
    assert (promise.expected, promise.expected_sd) == (decision.forecast, decision.forecast_sd)
    assert promise.kept
    assert (
        promise.words
        == "The last validation is 0.11, below the 2.317 ± 0.011 that the search expected of a probe at the best LR."
    )


def test_otherwise_it_is_the_mean_of_the_last_losses_with_its_error() -> None:
    run = drive(job_config("training", validates=False), SimulatedTraining())
    found = timeline(history(run))
    promise = Promise.of(found)
    last = found.committed_losses()[-END_LOSSES:]
    assert promise is not None
    assert promise.end == pytest.approx(last.mean())
    assert promise.end_error == pytest.approx(last.std(ddof=1) / np.sqrt(END_LOSSES))
    end = with_error(promise.end, promise.end_error)
    assert promise.words.startswith(f"The mean of the last {END_LOSSES} steps is {end}, below the ")


@pytest.mark.parametrize(
    ("end", "end_error", "kept", "place"),
    [
        (0.8, 0.0, True, "is 0.8, below the 0.820 ± 0.020 that"),
        (0.85, 0.0, True, "is 0.85, within the error of the 0.820 ± 0.020 that"),
        (0.86, 0.0, False, "is 0.86, not below the 0.820 ± 0.020 that"),
        (0.86, 0.02, True, "is 0.860 ± 0.020, within the error of the 0.820 ± 0.020 that"),
        (0.82001, 0.0, True, "is 0.82001, within the error of the 0.820 ± 0.020 that"),
    ],
)
def test_an_end_is_above_its_promise_only_beyond_the_errors_of_both(
    end: float, end_error: float, kept: bool, place: str
) -> None:
    promise = Promise(0.82, 0.02, end, end_error, n_losses=20 if end_error else 0)
    assert promise.kept is kept
    assert place in promise.words


def test_losses_may_be_below_zero() -> None:
    assert Promise(-3.0, 0.02, -3.5, 0.0, 0).kept
    promise = Promise(-3.0, 0.02, -2.5, 0.0, 0)
    assert not promise.kept
    assert promise.words.startswith("The last validation is −2.5, not below the −3.000 ± 0.020 that")


def test_what_the_search_promised_holds_at_the_lower_lrs_after_setbacks_too() -> None:
    found = timeline(
        history(drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True)))
    )
    promise = Promise.of(found)
    assert len(found.stages) == 3
    assert found.stages[0].decision is not None
    assert promise is not None
    assert promise.expected == found.stages[0].decision.forecast


def test_an_end_that_was_not_validated_is_not_held_against_validations(finished: Run) -> None:
    found = timeline(history(finished))
    *spans, last = found.spans
    unvalidated = dataclasses.replace(found, spans=(*spans, dataclasses.replace(last, validations=())))
    assert Promise.of(unvalidated) is None


@pytest.mark.parametrize("job", [job_config("short", total_steps=400, validates=False), config(400, **QUICK)])
def test_where_no_search_told_what_it_expects_nothing_was_promised(job: JobConfig) -> None:
    found = timeline(history(drive(job, SimulatedTraining())))
    assert Promise.of(found) is None
