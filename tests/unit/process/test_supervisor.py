"""When a supervisor says that it has to be started anew."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tests.support.servers.event_loop import run
from tuner_server.base.address import Address
from tuner_server.core.errors import StorageError, TunerError
from tuner_server.process import supervisor
from tuner_server.process.forkserver import ForkServer
from tuner_server.process.reloading import SettingsSource
from tuner_server.process.settings import ServerSettings
from tuner_server.process.supervisor import _Supervisor, _Worker
from tuner_server.process.worker_protocol import Failed, Health, Started


class NoForks(ForkServer):
    """A machine that has no memory for another process."""

    def fork(self, descriptors: object) -> int:
        """Raises: OSError: always."""
        raise OSError(12, "Cannot allocate memory")


@dataclasses.dataclass
class Clock:
    """The monotonic clock, set by hand."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(supervisor, "time", found)
    return found


def supervised() -> _Supervisor:
    """A supervisor whose one worker serves."""
    settings = ServerSettings(db="sqlite:////nowhere/jobs.db", workers=1)
    opened = _Supervisor(settings, SettingsSource({}, settings), Address("127.0.0.1", 1), NoForks())
    opened._stopping = asyncio.Event()
    worker = _Worker(0, asyncio.get_running_loop().create_future(), 0.0)
    opened._workers[0] = worker
    opened._take(worker, Started())
    return opened


def test_no_worker_for_a_minute_is_told_with_the_reason(clock: Clock) -> None:
    async def look() -> None:
        opened = supervised()
        opened._workers[0].ended.set_result(-9)
        served, why = await opened._run_one(0)
        assert not served
        opened._last_end = str(why)
        clock.now_s += supervisor.LOST_S - 1
        assert opened._liveness() == ""
        clock.now_s += 1
        assert "no worker has answered for 60 s" in opened._liveness()
        assert "no process can be started: " in opened._liveness()
        opened._stopping.set()
        assert opened._liveness() == ""  # it is ending already

    run(look())


def test_a_worker_that_says_so_keeps_it_alive_unless_only_another_start_mends_it(clock: Clock) -> None:
    async def look() -> None:
        opened = supervised()
        worker = opened._workers[0]
        for _ in range(100):
            clock.now_s += 1
            opened._take(worker, Health("the database is away"))
        assert opened._liveness() == ""  # to start it anew would help nobody
        for _ in range(100):
            clock.now_s += 1
            opened._take(worker, Health("a thread has ended", lasting=True))
        assert opened._liveness() != ""

    run(look())


@pytest.mark.parametrize(("error", "database"), [(StorageError("away"), True), (TunerError("broken"), False)])
def test_a_worker_tells_whether_it_is_the_database_that_keeps_it_from_serving(
    error: TunerError, database: bool
) -> None:
    told = Failed.because(error)
    assert told.database is database
    assert str(told.error()) == str(error)
