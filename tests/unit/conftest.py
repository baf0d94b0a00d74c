"""Jobs that have been run for several modules' tests, which change none of them."""

from __future__ import annotations

import pytest

from tests.support.jobs.sample_jobs import job_config
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive


@pytest.fixture(scope="session")
def finished() -> Run:
    """With the policy `budget`."""
    return drive(job_config("budget"), SimulatedTraining(validates=True))


@pytest.fixture(scope="session")
def training() -> Run:
    """The same, in its committed steps."""
    return drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=12)
