"""What interrupted deletions have left goes by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.jobs.sample_jobs import job_config
from tests.support.waiting import wait_until
from tuner_server.core.errors import StorageError
from tuner_server.process import sweeper
from tuner_server.process.sweeper import Sweeper
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Database, Storage, open_storage
from tuner_server.storage.sql import SqlStorage
from tuner_server.storage.tables import GONE, JobRow


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    with open_storage(url) as opened:
        yield opened


def delete_half(storage: Storage, url: str) -> None:
    with TunerService(storage) as service:
        job = service.create_job("default", "request", job_config("job"))
    with Database(url) as database, database.writing() as connection:
        connection.execute(sa.update(JobRow).where(JobRow.id == job.id).values(status=GONE))


def rows(url: str) -> int:
    with Database(url) as database, database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(JobRow)).scalar_one()


def test_the_rest_of_deleted_jobs_goes_at_the_start(storage: Storage, url: str) -> None:
    delete_half(storage, url)
    with Sweeper(storage):
        wait_until(lambda: rows(url) == 0)


def test_it_is_looked_for_again_and_a_database_that_refuses_ends_nothing(
    storage: Storage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, refused = SqlStorage.sweep, threading.Event()

    def refusing(self: SqlStorage, check: Callable[[], None]) -> int:
        if refused.is_set():
            return sweep(self, check)
        refused.set()
        raise StorageError("the disk is full")

    monkeypatch.setattr(SqlStorage, "sweep", refusing)
    monkeypatch.setattr(sweeper, "INTERVAL_S", 0.01)
    delete_half(storage, url)
    with Sweeper(storage):
        wait_until(lambda: rows(url) == 0)
    assert refused.is_set()


def test_it_ends_in_the_middle_of_its_work(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(_self: SqlStorage, check: Callable[[], None]) -> int:
        while True:
            begun.set()
            check()

    monkeypatch.setattr(SqlStorage, "sweep", endless)
    with Sweeper(storage):
        assert begun.wait(10.0)
