"""A project never has more live jobs than it may, whatever leaves, falls silent, comes back or begins anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tuner_server.access.records import Limits
from tuner_server.core.errors import QuotaError
from tuner_server.core.job.life import Life, LifeLimits
from tuner_server.service.sign_writer import SignWriter
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Storage, StoredJob, open_storage
from tuner_server.storage.access import open_access

PROJECT = "default"
TIMEOUT_S = 30.0
CONFIG = config(400, **QUICK)
LIMITS = LifeLimits.of_seconds(10.0, 100.0)


class World:
    """A project with one place, and a clock that is set."""

    def __init__(self, service: TunerService, storage: Storage) -> None:
        self.service, self.storage = service, storage
        self.now = datetime(2026, 5, 1, tzinfo=UTC)

    def open(self, request_id: str) -> StoredJob:
        self.later(1)
        return self.service.create_job(PROJECT, request_id, CONFIG)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def report(self, job: StoredJob) -> None:
        self.later(1)
        directive = self.service.get_job(PROJECT, job.id).state.directive
        resume_id = self.service.get_job(PROJECT, job.id).state.resumed_as
        report = SimulatedTraining().run(directive)
        self.service.advance(PROJECT, job.id, report, resume_id).result(TIMEOUT_S)

    def resume(self, job: StoredJob) -> None:
        self.later(1)
        self.service.resume_job(PROJECT, job.id, 1, f"{self.now}")

    def reopen(self, job: StoredJob) -> None:
        self.later(1)
        assert self.service.create_job(PROJECT, "first", CONFIG).id == job.id

    def leave(self, job: StoredJob) -> None:
        self.later(1)
        self.service.leave_job(PROJECT, job.id, self.service.get_job(PROJECT, job.id).state.resumed_as)

    def silence(self, _job: StoredJob) -> None:
        self.later(11)

    def beat(self, job: StoredJob) -> None:
        self.later(1)
        with SignWriter(self.storage, lambda: self.now) as writer:
            writer.add(PROJECT, job.id, "")

    def life(self, job: StoredJob) -> Life | None:
        return self.service.vitals(self.service.get_job(PROJECT, job.id)).life


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_access(url) as access:
        access.update_project(PROJECT, Limits(max_alive_jobs=1))
    with open_storage(url, limits=LIMITS) as storage:
        world: World
        with TunerService(storage, lambda: world.now) as service:
            world = World(service, storage)
            yield world


AWAY: list[Callable[[World, StoredJob], None]] = [World.leave, World.silence]
BACK: list[Callable[[World, StoredJob], None]] = [World.report, World.resume, World.reopen]


@pytest.mark.parametrize("goes", AWAY)
@pytest.mark.parametrize("comes_back", BACK)
def test_who_comes_back_finds_its_place_taken_until_it_is_free_again(
    world: World, goes: Callable[[World, StoredJob], None], comes_back: Callable[[World, StoredJob], None]
) -> None:
    first = world.open("first")
    if comes_back is not World.reopen:
        world.report(first)  # it is in the cache, as one that is alive
    goes(world, first)
    second = world.open("second")
    for _ in range(2):
        with pytest.raises(QuotaError):
            comes_back(world, first)
        assert world.life(first) is not Life.ALIVE
    world.report(second)
    world.leave(second)
    comes_back(world, first)
    assert world.life(first) is Life.ALIVE
    with pytest.raises(QuotaError):
        world.report(second)


@pytest.mark.parametrize("goes", AWAY)
@pytest.mark.parametrize("comes_back", BACK)
def test_who_comes_back_to_its_own_place_takes_it(
    world: World, goes: Callable[[World, StoredJob], None], comes_back: Callable[[World, StoredJob], None]
) -> None:
    first = world.open("first")
    goes(world, first)
    comes_back(world, first)
    assert world.life(first) is Life.ALIVE
    comes_back(world, first)


def test_a_job_that_has_ended_is_not_taken_back_into_a_full_project(world: World) -> None:
    first = world.open("first")
    while world.life(first) is not None:
        world.report(first)
    second = world.open("second")
    with pytest.raises(QuotaError):
        world.resume(first)
    world.leave(second)
    world.resume(first)
    assert world.life(first) is Life.ALIVE


@pytest.mark.parametrize("goes", AWAY)
def test_a_beat_takes_no_place_that_is_taken(world: World, goes: Callable[[World, StoredJob], None]) -> None:
    first = world.open("first")
    goes(world, first)
    second = world.open("second")
    world.beat(first)
    assert world.life(first) is not Life.ALIVE
    world.leave(second)
    world.beat(first)
    assert world.life(first) is Life.ALIVE
