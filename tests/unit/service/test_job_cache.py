"""The cache of jobs keeps the latest of the live ones, and no more than it may."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.jobs.simulated_training import config
from tuner_server.core.job import machine
from tuner_server.core.job.life import Signs
from tuner_server.core.job.machine import Status
from tuner_server.service import job_cache
from tuner_server.service.job_cache import JobCache
from tuner_server.storage import StoredJob

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(job_id: str, version: int = 1, status: Status = Status.TRAINING) -> StoredJob:
    state = machine.create(config()).state.model_copy(update={"status": status})
    return StoredJob(job_id, "default", state, version, NOW, NOW, Signs(NOW))


def test_the_least_recently_used_is_forgotten() -> None:
    cache = JobCache(2)
    first, second, third = stored("1"), stored("2"), stored("3")
    cache.put(first)
    cache.put(second)
    assert cache.get("1") is first
    cache.put(third)
    assert [cache.get(i) for i in "123"] == [first, None, third]
    assert len(cache) == 2


def test_a_job_that_has_ended_is_not_kept() -> None:
    cache = JobCache(2)
    cache.put(stored("1"))
    cache.put(stored("1", 2, Status.FINISHED))
    assert cache.get("1") is None


def test_a_forgotten_job_is_unknown() -> None:
    cache = JobCache(2)
    cache.put(stored("1"))
    cache.forget("1")
    cache.forget("never seen")
    assert cache.get("1") is None


def test_a_job_of_which_nothing_was_heard_for_long_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_cache, "KEPT_S", 0.0)
    cache = JobCache(2)
    cache.put(stored("1"))
    assert cache.get("1") is None
    assert len(cache) == 0
