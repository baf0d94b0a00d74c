from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.jobs.sample_jobs import SlowTraining, job_config, run_job
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.interest import Interest
from tuner_server.core.errors import StorageError
from tuner_server.service import long_reads
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Storage, StoredHistory, StoredJob, open_storage
from tuner_server.web.server import timeline_cache
from tuner_server.web.server.timeline_cache import TimelineCache

N = 4
"""Requests that come together."""
TIMEOUT_S = 30.0


class GatedService(TunerService):
    """Reads histories when it is let, and knows how often."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.reads = 0
        self.looked = threading.Semaphore(0)
        self.open = threading.Event()
        self.problem: Exception | None = None

    def get_job(self, project: str, job_id: str) -> StoredJob:
        found = super().get_job(project, job_id)
        self.looked.release()
        return found

    def history(self, stored: StoredJob, check: Callable[[], None] = lambda: None) -> StoredHistory:
        self.reads += 1
        assert self.open.wait(TIMEOUT_S)
        if self.problem is not None:
            raise self.problem
        return super().history(stored, check)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[GatedService]:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, GatedService(storage) as service:
        yield service


@pytest.fixture
def job_id(service: GatedService) -> str:
    return run_job(service, job_config("job"), SlowTraining(validates=True), 3)


def at_once(service: GatedService, histories: TimelineCache, job_id: str) -> list[object]:
    """What requests get that come while the first is being worked on: a timeline, or an error."""

    def get() -> object:
        try:
            return histories.get(DEFAULT_PROJECT, job_id, Interest())[1]
        except StorageError as error:
            return error

    with ThreadPoolExecutor(N) as pool:
        asked = [pool.submit(get) for _ in range(N)]
        for _ in range(N):
            assert service.looked.acquire(timeout=TIMEOUT_S)
        service.open.set()
        return [each.result() for each in asked]


def test_a_job_is_laid_out_once_for_all_that_ask_at_once(service: GatedService, job_id: str) -> None:
    histories = TimelineCache(service)
    found = at_once(service, histories, job_id)
    assert service.reads == 1
    assert all(each is found[0] for each in found)
    assert histories.get(DEFAULT_PROJECT, job_id, Interest())[1] is found[0]
    service.cancel_job(DEFAULT_PROJECT, job_id, "")
    assert histories.get(DEFAULT_PROJECT, job_id, Interest())[1] is not found[0], "it has changed"
    assert service.reads == 2


def test_what_goes_wrong_is_told_to_all_and_not_kept(service: GatedService, job_id: str) -> None:
    histories = TimelineCache(service)
    service.problem = StorageError("the database is away")
    assert all(each is service.problem for each in at_once(service, histories, job_id))
    service.problem = None
    assert histories.get(DEFAULT_PROJECT, job_id, Interest())[1].n_steps > 0


def test_as_many_are_kept_as_there_is_room_for(service: GatedService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.open.set()
    first, second = (run_job(service, job_config(name), SlowTraining(validates=True), 3) for name in ("1", "2"))
    found = TimelineCache(service).get(DEFAULT_PROJECT, first, Interest())[1]
    cost = found.n_steps + timeline_cache.STEPS_A_SPAN * len(found.spans)
    assert cost > 10 * found.n_steps, "a short job takes more than its steps"
    for room, again in ((2 * cost, 0), (2 * cost - 1, 3), (cost - 1, 3)):
        monkeypatch.setattr(timeline_cache, "MAX_STEPS_KEPT", room)
        histories = TimelineCache(service)
        for job_id in (first, second):
            histories.get(DEFAULT_PROJECT, job_id, Interest())
        service.reads = 0
        for job_id in (second, first, second, first):
            histories.get(DEFAULT_PROJECT, job_id, Interest())
        assert service.reads == again, "the latest is kept, however long it is"


def test_none_is_kept_while_a_very_long_one_is_laid_out(service: GatedService, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the cap on directives two of them would take most of a server's memory."""
    service.open.set()
    first, second = (run_job(service, job_config(name), SlowTraining(validates=True), 3) for name in ("1", "2"))
    histories = TimelineCache(service)
    histories.get(DEFAULT_PROJECT, first, Interest())
    monkeypatch.setattr(long_reads, "VERY_LONG_DIRECTIVES", 0)
    reads = service.reads
    histories.get(DEFAULT_PROJECT, second, Interest())
    histories.get(DEFAULT_PROJECT, second, Interest())
    assert service.reads == reads + 1, "it is kept itself"
    histories.get(DEFAULT_PROJECT, first, Interest())
    assert service.reads == reads + 2, "the other was not"
