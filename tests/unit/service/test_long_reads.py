from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine

import pytest

from tests.support.jobs.sample_jobs import job_config, stored
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.errors import BusyError
from tuner_server.service import long_reads
from tuner_server.service.long_reads import LongReads, Turn, is_long


def on_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """A test that runs on an event loop of its own."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Readers:
    """Requests that take a turn and keep it until they are told to end."""

    def __init__(self, reads: LongReads) -> None:
        self._reads = reads
        self.order: list[str] = []
        self.running: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, project: str) -> None:
        self.tasks[name] = asyncio.create_task(self._read(name, project))
        await settled()

    async def end(self, name: str) -> None:
        self.running[name].set()
        await self.tasks[name]
        await settled()

    async def _read(self, name: str, project: str) -> None:
        async with self._reads.turn(project):
            self.order.append(name)
            self.running[name] = asyncio.Event()
            await self.running[name].wait()
            del self.running[name]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@on_a_loop
async def test_projects_take_turns_and_each_keeps_its_order() -> None:
    readers = Readers(LongReads(slots=1))
    for name, project in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b")):
        await readers.begin(name, project)
    for name in ("a1", "a2", "b1", "a3", "b2"):
        assert set(readers.running) == {name}
        await readers.end(name)


@on_a_loop
async def test_one_project_leaves_a_turn_for_others() -> None:
    readers = Readers(LongReads(slots=4))
    for i in range(5):
        await readers.begin(f"a{i}", "a")
    assert set(readers.running) == {"a0", "a1", "a2"}
    await readers.begin("b", "b")
    assert set(readers.running) == {"a0", "a1", "a2", "b"}
    await readers.end("a1")
    assert "a3" in readers.running
    for task in readers.tasks.values():
        task.cancel()
    await settled()
    async with asyncio.timeout(1), LongReads(slots=4).turn("a"):
        pass


@on_a_loop
async def test_who_comes_too_late_is_told_when_to_come_again() -> None:
    readers = Readers(reads := LongReads(slots=1, waiting=2))
    for name in ("running", "waits", "waits too"):
        await readers.begin(name, "a")
    with pytest.raises(BusyError, match="2 requests wait") as refused:
        async with reads.turn("b"):
            pass
    assert refused.value.retry_after_s > 0
    for name in ("running", "waits", "waits too"):
        await readers.end(name)


@on_a_loop
async def test_who_waits_too_long_or_leaves_gives_up_the_turn() -> None:
    readers = Readers(reads := LongReads(slots=1, wait_s=0.02))
    await readers.begin("running", "a")
    with pytest.raises(BusyError, match="come again later"):
        async with reads.turn("a"):
            pass
    await readers.begin("leaves", "a")
    readers.tasks["leaves"].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await readers.tasks["leaves"]
    await readers.end("running")
    async with reads.turn("a"):
        pass
    assert readers.order == ["running"]


class Clock:
    """A time that stands until it is moved."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def drip(self, turn: Turn) -> None:
        """Lets a reader take a byte in more time than one may."""
        with turn.taking(1):
            self.now_s += long_reads.GRACE_S + 1


@on_a_loop
async def test_a_reader_drop_by_drop_loses_its_turn_to_those_who_wait_and_no_sooner() -> None:
    reads, cut, kept = LongReads(slots=4, clock=(clock := Clock())), asyncio.Event(), asyncio.Event()
    async with reads.turn("a") as slow, reads.turn("a") as fair, reads.turn("a"):
        clock.drip(slow)
        with slow.cut_by(cut.set), fair.cut_by(kept.set), fair.taking(2**20):
            async with reads.turn("b"):
                assert not cut.is_set(), "the turn of another project was free"
            waiting = asyncio.create_task(reads.turn("a").__aenter__())
            await settled()
            assert cut.is_set()
            assert not kept.is_set()
        waiting.cancel()
        await settled()


@on_a_loop
async def test_a_project_whose_turns_are_all_taken_cuts_no_others() -> None:
    """It would not get their turn."""
    reads, cut = LongReads(slots=4, clock=(clock := Clock())), asyncio.Event()
    async with reads.turn("b") as slow, reads.turn("a"), reads.turn("a"), reads.turn("a"):
        clock.drip(slow)
        with slow.cut_by(cut.set):
            for project, expected in (("a", False), ("c", True)):
                waiting = asyncio.create_task(reads.turn(project).__aenter__())
                await settled()
                assert cut.is_set() == expected
                waiting.cancel()
                await settled()


@on_a_loop
async def test_very_long_histories_are_laid_out_one_at_a_time_beside_others() -> None:
    reads = LongReads(slots=4)
    order = []
    async with reads.turn("a", very_long=True):

        async def second() -> None:
            async with reads.turn("b", very_long=True):
                order.append("second")

        waiting = asyncio.create_task(second())
        await settled()
        async with reads.turn("c"):
            order.append("another")
    await waiting
    assert order == ["another", "second"]


@on_a_loop
async def test_who_waits_too_long_for_a_very_long_history_gives_up() -> None:
    reads = LongReads(slots=4, wait_s=0.02)
    async with reads.turn("a", very_long=True):
        with pytest.raises(BusyError, match="very long history"):
            async with reads.turn("b", very_long=True):
                pass
    async with reads.turn("b", very_long=True):
        pass


def test_a_reader_is_late_by_the_bytes_that_it_took_and_the_time_that_it_was_waited_for() -> None:
    turn = Turn(clock := Clock())
    with turn.taking(100 * long_reads.LEAST_BYTES_PER_S):
        clock.now_s += long_reads.GRACE_S
        assert not turn.is_late
        clock.now_s += 50
        assert turn.is_late
    assert not turn.is_late, "it took more than its share meanwhile"
    clock.now_s += 1000
    assert not turn.is_late, "what the server itself takes is not its reader's"


def test_what_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    job = stored(drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=5).state)
    assert not is_long(job)
    monkeypatch.setattr(long_reads, "LONG_DIRECTIVES", 4)
    assert is_long(job)
    monkeypatch.setattr(long_reads, "LONG_DIRECTIVES", 2000)
    monkeypatch.setattr(long_reads, "LONG_STEPS", 10)
    assert is_long(job)
