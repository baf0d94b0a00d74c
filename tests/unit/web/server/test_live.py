"""Streams of events, and the looks that they share."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.support.servers.event_loop import run
from tuner_server.core.errors import StorageError
from tuner_server.web.server.live import Version, VersionPoller

HOURS = 10_000.0
"""An interval that does not end within a test."""


class Thing:
    """What is looked at, and how often it was."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.answer = asyncio.Event()
        self.error: Exception | None = None

    async def look(self, key: str) -> Version:
        self.looks.append(key)
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return f"{key} {self.looks.count(key)}", True


def test_many_that_ask_in_one_interval_share_a_look() -> None:
    async def scenario() -> None:
        thing = Thing()
        looks = VersionPoller(thing.look, HOURS)
        asked = [asyncio.create_task(looks(key)) for key in "aabab"]
        await asyncio.sleep(0)
        thing.answer.set()
        assert {version for version, _ in await asyncio.gather(*asked)} == {"a 1", "b 1"}
        assert await looks("a") == ("a 1", True)
        assert sorted(thing.looks) == ["a", "b"]

    run(scenario())


def test_after_an_interval_it_is_looked_anew() -> None:
    async def scenario() -> None:
        thing = Thing()
        thing.answer.set()
        looks = VersionPoller(thing.look, 0.0)
        assert [await looks("a") for _ in range(3)] == [("a 1", True), ("a 2", True), ("a 3", True)]

    run(scenario())


def test_a_look_that_takes_longer_than_an_interval_is_waited_for() -> None:
    async def scenario() -> None:
        thing = Thing()
        looks = VersionPoller(thing.look, 0.0)
        asked = []
        for _ in range(3):
            asked.append(asyncio.create_task(looks("a")))
            await asyncio.sleep(0)
        thing.answer.set()
        assert await asyncio.gather(*asked) == [("a 1", True)] * 3

    run(scenario())


def test_one_that_leaves_does_not_take_the_look_along() -> None:
    async def scenario() -> None:
        thing = Thing()
        looks = VersionPoller(thing.look, HOURS)
        leaves, stays = asyncio.create_task(looks("a")), asyncio.create_task(looks("a"))
        await asyncio.sleep(0)
        leaves.cancel()
        thing.answer.set()
        assert await stays == ("a 1", True)

    run(scenario())


def test_what_can_not_be_seen_is_told_to_all_and_tried_again() -> None:
    async def scenario() -> None:
        thing = Thing()
        thing.answer.set()
        looks = VersionPoller(thing.look, 0.0)
        thing.error = StorageError("the database is away")
        for _ in range(2):
            with pytest.raises(StorageError):
                await looks("a")
        thing.error = None
        assert await looks("a") == ("a 3", True)

    run(scenario())


def test_a_look_that_fails_when_all_have_left_is_no_error_of_the_loop() -> None:
    async def scenario() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["message"]))
        thing = Thing()
        thing.error = StorageError("gone")
        looks = VersionPoller(thing.look, 0.0)
        left = asyncio.create_task(looks("a"))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0.01)
        thing.answer.set()
        await asyncio.sleep(0.01)
        del looks, left, thing
        gc.collect()
        await asyncio.sleep(0)
        assert told == []

    run(scenario())
