"""Large messages are worked on in turn, and keep the small ones waiting nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from tests.support.servers.event_loop import run
from tuner_server.access.large_messages import LARGE_BYTES, LargeMessages
from tuner_server.access.principal import Principal
from tuner_server.access.shares import LIMITS, Lane, Shares
from tuner_server.core.errors import RateError

SIZE = 2 * LARGE_BYTES
LONG_S = 3600.0
NAMES = "first", "second", "third", "fourth"


def scenario(coroutine: Coroutine[None, None, None]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(10.0):
            await coroutine

    run(within_time())


async def known(large: LargeMessages, *connections: str) -> None:
    """Has each of the connections send a large message, which is done with at once."""
    for connection in connections:
        await large.take_room(connection, SIZE)
        await given_back(large, SIZE)


async def given_back(large: LargeMessages, n_bytes: int) -> None:
    """Gives room back that was held for no time."""
    large.give_back_room(n_bytes, 0.0)
    await asyncio.sleep(0.01)  # the loop's clock is not exact


def waiting(large: LargeMessages, connection: str, admitted: list[str], n_bytes: int = SIZE) -> asyncio.Task[None]:
    async def wait() -> None:
        await large.take_room(connection, n_bytes)
        admitted.append(connection)

    return asyncio.create_task(wait())


def test_those_that_wait_get_room_in_the_order_they_came() -> None:
    async def story() -> None:
        large, admitted = LargeMessages(2 * SIZE, LONG_S), list[str]()
        await known(large, *NAMES)
        tasks = [
            waiting(large, name, admitted, size) for name, size in zip(NAMES, (SIZE, 2 * SIZE, SIZE, SIZE), strict=True)
        ]
        await asyncio.sleep(0)
        assert admitted == ["first"], "the third would find room, but it comes after the second"
        await given_back(large, SIZE)
        await asyncio.sleep(0)
        assert admitted == ["first", "second"]
        await given_back(large, 2 * SIZE)
        await asyncio.gather(*tasks)
        assert admitted == list(NAMES)

    scenario(story())


def test_room_is_left_to_others_for_as_long_as_it_was_held() -> None:
    async def story() -> None:
        large, loop = LargeMessages(SIZE, LONG_S), asyncio.get_running_loop()
        await known(large, *NAMES)
        for held_s in (0.05, 0.1):
            await large.take_room("first", SIZE)
            began = loop.time()
            large.give_back_room(SIZE, held_s)
            await large.take_room("second", SIZE)
            assert loop.time() - began >= held_s - 0.01
            await given_back(large, SIZE)

    scenario(story())


def test_one_that_nobody_expected_is_refused_where_there_is_no_room_and_waits_the_next_time() -> None:
    async def story() -> None:
        large, admitted = LargeMessages(SIZE, LONG_S), list[str]()
        await large.take_room("first", SIZE)
        with pytest.raises(RateError):
            await large.take_room("second", SIZE)
        task = waiting(large, "second", admitted)
        await asyncio.sleep(0)
        await given_back(large, SIZE)
        await task

    scenario(story())


def test_a_small_one_needs_no_room() -> None:
    async def story() -> None:
        large = LargeMessages(SIZE, LONG_S)
        await large.take_room("first", SIZE)
        for _ in range(10):
            await large.take_room("second", LARGE_BYTES)
        assert large.expected_of("first")
        assert not large.expected_of("second")

    scenario(story())


def test_one_that_waits_too_long_is_told_to_come_again() -> None:
    async def story() -> None:
        large = LargeMessages(SIZE, 0.01)
        await known(large, *NAMES)
        await large.take_room("first", SIZE)
        with pytest.raises(RateError):
            await large.take_room("second", SIZE)
        await given_back(large, SIZE)
        await large.take_room("third", SIZE)

    scenario(story())


@pytest.mark.parametrize("in_the_same_moment", [False, True])
def test_whoever_leaves_while_it_waits_takes_no_room_along(in_the_same_moment: bool) -> None:
    async def story() -> None:
        large, admitted = LargeMessages(SIZE, LONG_S), list[str]()
        await known(large, *NAMES)
        tasks = [waiting(large, name, admitted) for name in NAMES]
        await asyncio.sleep(0)
        if in_the_same_moment:
            large.give_back_room(SIZE, 0.0)
            asyncio.get_running_loop().call_later(0.0, tasks[1].cancel)
        else:
            tasks[1].cancel()
            await given_back(large, SIZE)
        await asyncio.gather(tasks[1], return_exceptions=True)
        await tasks[2]
        assert admitted == ["first", "third"]
        tasks[3].cancel()

    scenario(story())


def test_a_connection_that_sent_a_large_one_waits_for_other_places_from_then_on() -> None:
    async def story() -> None:
        shares, caller = Shares(), Principal("vision", frozenset())
        with shares.call(caller, Lane.TRAINING, streams=False) as share:
            small = share.arrivals("small")
            assert share.arrivals("large") is small
            with await share.work("large", SIZE), await share.work("small", LARGE_BYTES):
                assert share.n_bytes == SIZE + LARGE_BYTES
            assert share.n_bytes == 0
            assert share.arrivals("large") is not small
            assert share.arrivals("small") is small

    scenario(story())


def test_room_comes_back_from_a_message_that_its_project_has_no_share_for() -> None:
    async def story() -> None:
        shares, caller = Shares(), Principal("vision", frozenset())
        too_much = LIMITS[Lane.HEALTH].n_bytes + 1
        for _ in range(20):  # which together would fill all the room
            with shares.call(caller, Lane.HEALTH, streams=False) as share:
                work = await share.work("large", too_much)
                with pytest.raises(RateError), work:
                    pass

    scenario(story())
