"""Places for messages: shared equally, and held by nobody who is silent while others wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

import pytest

from tests.support.servers.event_loop import run
from tuner_server.access.arrivals import Arrivals
from tuner_server.core.errors import InvalidInputError, RateError

LONG_S = 3600.0


class Callers:
    """Messages that arrive when they are told to."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.admitted: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, caller: str, arrives: asyncio.Event) -> asyncio.Task[None]:
        """Begins to send; the message is there once the event is set."""

        async def send() -> None:
            async with self._arrivals.place(caller):
                self.admitted.append(caller)
                await arrives.wait()

        task = asyncio.create_task(send())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def scenario(coroutine: Coroutine[None, None, None]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(10.0):
            await coroutine

    run(within_time())


def test_silent_messages_of_one_caller_make_room_for_another() -> None:
    async def story() -> None:
        callers, never, there = Callers(Arrivals(4, LONG_S, 0.0)), asyncio.Event(), asyncio.Event()
        there.set()
        silent = [await callers.begin("silent", never) for _ in range(12)]
        assert callers.admitted == ["silent"] * 4, "nobody else waits, so they may take their time"
        await (await callers.begin("probe", there))
        ended = [task for task in silent if task.done()]
        assert ended
        for task in ended:
            with pytest.raises(RateError):
                await task
        await callers.leave()

    scenario(story())


def test_whoever_waits_takes_turns_by_caller() -> None:
    async def story() -> None:
        callers, first, there = Callers(Arrivals(1, LONG_S, LONG_S)), asyncio.Event(), asyncio.Event()
        there.set()
        await callers.begin("many", first)
        tasks = [await callers.begin("many", there) for _ in range(3)]
        tasks.append(await callers.begin("one", there))
        first.set()
        await asyncio.gather(*tasks)
        assert callers.admitted == ["many", "many", "one", "many", "many"]

    scenario(story())


def test_a_caller_with_no_more_than_its_part_keeps_its_time() -> None:
    async def story() -> None:
        callers, never = Callers(Arrivals(4, LONG_S, 0.0)), asyncio.Event()
        slow = await callers.begin("slow", never)
        for _ in range(6):
            await callers.begin("other", never)
        await callers.begin("third", never)
        await asyncio.sleep(0.01)
        assert not slow.done()
        await callers.leave()

    scenario(story())


def test_a_message_has_its_time_and_no_more() -> None:
    async def story() -> None:
        callers, never = Callers(Arrivals(4, 0.01, LONG_S)), asyncio.Event()
        with pytest.raises(InvalidInputError, match=r"did not arrive within 0\.01 s"):
            await (await callers.begin("slow", never))

    scenario(story())


@pytest.mark.parametrize("n_places", [1, 3])
def test_whoever_leaves_while_it_waits_takes_no_place_along(n_places: int) -> None:
    async def story() -> None:
        callers, never, there = Callers(Arrivals(n_places, LONG_S, LONG_S)), asyncio.Event(), asyncio.Event()
        there.set()
        for _ in range(n_places):
            await callers.begin("first", never)
        waiting = [await callers.begin("waiting", there) for _ in range(4)]
        waiting[0].cancel()
        await asyncio.sleep(0)
        callers.tasks[0].cancel()  # its place is promised to the second of those that wait
        await asyncio.sleep(0)
        waiting[1].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[1]
        await asyncio.gather(*waiting[2:])
        await callers.leave()
        again = [await callers.begin("again", there) for _ in range(2 * n_places)]
        await asyncio.gather(*again)

    scenario(story())


def test_all_may_leave_in_the_same_moment() -> None:
    async def story() -> None:
        callers, never, there = Callers(Arrivals(2, LONG_S, LONG_S)), asyncio.Event(), asyncio.Event()
        there.set()
        for _ in range(10):
            await callers.begin("leaves", never)
        await callers.leave()
        again = [await callers.begin("again", there) for _ in range(4)]
        await asyncio.gather(*again)

    scenario(story())
