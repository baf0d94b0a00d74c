"""What `lrpilot show` and `lrpilot jobs` say of a job's steps."""

from __future__ import annotations

import io

import pytest
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Console, RenderableType

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.incomplete_rollback import LeakingTraining
from tests.support.jobs.sample_jobs import job_config, stored
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.cli.job import facts_table
from tuner_server.cli.jobs import jobs_table
from tuner_server.core.config import JobConfig
from tuner_server.rpc.convert import job_to_pb


def _printed(found: RenderableType) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(found)
    return " ".join(file.getvalue().split())


def _job(asked: JobConfig, training: SimulatedTraining, max_directives: int = 10_000) -> pb.Job:
    return job_to_pb(stored(drive(asked, training, max_directives=max_directives).state))


def _both(job: pb.Job) -> tuple[str, str]:
    """As `show` and as `jobs` have it."""
    return _printed(facts_table(job)), _printed(jobs_table([job]))


def test_what_was_searched_and_what_was_rolled_back_are_apart() -> None:
    job = _job(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    n_probed = job.search_steps - 200
    shown, listed = _both(job)
    assert f"{job.committed_steps} committed + {n_probed} search + 200 rolled back of 800" in shown
    assert f"{job.committed_steps} + {n_probed} + 200 rolled back of 800" in listed


@pytest.mark.parametrize("max_directives", [0, 3, 10_000])
def test_a_run_that_is_too_short_for_a_search_says_that_it_has_none(max_directives: int) -> None:
    job = _job(job_config("short", total_steps=400), SimulatedTraining(validates=True), max_directives)
    shown, listed = _both(job)
    assert f"{job.committed_steps} committed of 400, no search" in shown
    assert f"{job.committed_steps} of 400, no search" in listed


@pytest.mark.parametrize(
    ("asked", "max_directives"),
    [
        (job_config("new"), 0),
        (job_config("searching"), 3),
        (config(800, warmup_steps=20, **QUICK), 0),
        (job_config("done"), 99),
    ],
)
def test_a_job_that_has_a_search_or_will_have_one_is_not_said_to_have_none(
    asked: JobConfig, max_directives: int
) -> None:
    job = _job(asked, SimulatedTraining(validates=asked.has_validation), max_directives)
    assert all("no search" not in said for said in _both(job))


def test_a_run_whose_rollback_failed_says_so() -> None:
    job = _job(job_config("leaking"), LeakingTraining(validates=True))
    assert all("of 4000, a rollback failed" in said for said in _both(job))
