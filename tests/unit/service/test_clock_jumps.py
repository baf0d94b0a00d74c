"""A clock that jumps: what is said of a job may be wrong until its client gives the next sign, and no longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tuner_server.core.job.life import Life
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage

PROJECT = "default"
START = datetime(2030, 1, 1, tzinfo=UTC)
YEAR, HOUR, SECOND = timedelta(days=400), timedelta(hours=1), timedelta(seconds=1)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("jump", [-YEAR, -HOUR, HOUR, YEAR])
def test_a_clock_that_jumps_and_comes_back_leaves_no_job_dead_or_alive(tmp_path: Path, jump: timedelta) -> None:
    clock, training = Clock(), SimulatedTraining(0)
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, TunerService(storage, clock) as service:
        job = service.create_job(PROJECT, "request", config(400, **QUICK))
        directive = job.state.directive

        def life_at(now: datetime) -> Life | None:
            clock.now = now
            return service.vitals(service.get_job(PROJECT, job.id)).life

        after = life_at(START + jump)
        # Set back, it kills no job. Set ahead, it looks like a long silence.
        assert after is Life.SILENT if jump < YEAR else after is Life.ABANDONED
        for now in (START + jump, START + SECOND):
            clock.now = now
            directive = service.advance(PROJECT, job.id, training.run(directive)).result(30)
            assert life_at(now) is Life.ALIVE
        assert life_at(START + HOUR) is Life.SILENT
        assert life_at(START + YEAR) is Life.ABANDONED
