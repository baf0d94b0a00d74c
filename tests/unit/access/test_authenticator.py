"""Who a token makes its owner, for how long that is believed, and what is asked of the database for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.servers.event_loop import run
from tuner_server.access import authenticator
from tuner_server.access.authenticator import FRESH_S, Authenticator
from tuner_server.access.principal import Principal, Scope
from tuner_server.access.records import Grant, Limits, TokenRecord
from tuner_server.access.token import Token
from tuner_server.core.errors import OverloadError, StorageError, UnauthenticatedError

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


class Known:
    """Grants in memory, which count how often they are asked, and can be away."""

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}
        self.asked: list[str] = []
        self.away = False
        self.gate = threading.Event()
        self.gate.set()

    def add(self, token: Token, **changes: object) -> None:
        record = TokenRecord(token.id, "vision", "", token.secret_hash, frozenset({Scope.READ}), NOW)
        self.grants[token.id] = Grant(dataclasses.replace(record, **changes), Limits(max_calls_per_s=7.0))  # type: ignore[arg-type]  # fields of the record

    def find(self, token_id: str) -> Grant | None:
        self.asked.append(token_id)
        self.gate.wait()
        if self.away:
            raise StorageError("the database is away")
        return self.grants.get(token_id)


class World:
    """An authenticator, its grants, and its two clocks in one."""

    def __init__(self) -> None:
        self.known = Known()
        self.passed_s = 0.0
        self.authenticator = Authenticator(self.known, self.now, lambda: self.passed_s)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.passed_s)

    def show(self, *texts: str) -> list[Principal | BaseException]:
        """Shows tokens at the same time."""

        async def all_of_them() -> list[Principal | BaseException]:
            shown = map(self.authenticator.authenticate, texts)
            return await asyncio.gather(*shown, return_exceptions=True)

        return run(all_of_them())


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with contextlib.closing(made.authenticator):
        yield made


def refused(found: Principal | BaseException) -> str:
    assert isinstance(found, UnauthenticatedError)
    return str(found)


def test_a_token_makes_its_owner(world: World) -> None:
    token = Token.new()
    world.known.add(token)
    assert world.show(token.text) == [Principal("vision", frozenset({Scope.READ}), token.id, 7.0)]


def test_without_the_secret_all_wrong_tokens_get_the_same_words(world: World) -> None:
    token = Token.new()
    expired, revoked = Token.new(), Token.new()
    world.known.add(token)
    world.known.add(expired, expire_time=NOW)
    world.known.add(revoked, revoke_time=NOW)
    wrong = [dataclasses.replace(each, secret=Token.new().secret).text for each in (token, expired, revoked)]
    words = {refused(each) for each in world.show("", "nope", Token.new().text, *wrong)}
    assert len(words) == 1
    assert not any(secret in word for word in words for secret in wrong)


def test_its_owner_is_told_that_a_token_has_ended(world: World) -> None:
    expired, revoked = Token.new(), Token.new()
    world.known.add(expired, expire_time=NOW + timedelta(seconds=1))
    world.known.add(revoked, revoke_time=NOW)
    first, second = world.show(expired.text, revoked.text)
    assert isinstance(first, Principal)
    assert "revoked" in refused(second)
    world.passed_s = 1.0  # to the second, though what was looked up is fresh
    assert "expired" in refused(world.show(expired.text)[0])
    assert world.known.asked.count(expired.id) == 1


def test_a_revocation_counts_within_the_stated_time(world: World) -> None:
    token = Token.new()
    world.known.add(token)
    world.show(token.text)
    world.known.add(token, revoke_time=NOW)
    world.passed_s = FRESH_S - 0.01
    assert isinstance(world.show(token.text)[0], Principal)
    world.passed_s = FRESH_S
    assert "revoked" in refused(world.show(token.text)[0])


def test_a_token_is_looked_up_once_for_all_who_show_it(world: World) -> None:
    token = Token.new()
    world.known.add(token)
    assert len(set(map(str, world.show(*[token.text] * 50)))) == 1
    assert world.known.asked == [token.id]


def test_a_database_that_is_away_says_nothing_about_a_token(world: World) -> None:
    token = Token.new()
    world.known.add(token)
    world.known.away = True
    assert isinstance(world.show(token.text)[0], StorageError)
    world.known.away = False
    assert isinstance(world.show(token.text)[0], Principal)
    world.known.away, world.passed_s = True, FRESH_S
    assert isinstance(world.show(token.text)[0], StorageError)


def test_made_up_tokens_are_not_remembered_and_do_not_pile_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "MAX_LOOKUPS", 4)
    world.known.gate.clear()
    threading.Timer(0.1, world.known.gate.set).start()
    found = world.show(*[Token.new().text for _ in range(10)])
    assert [type(each) for each in found] == [UnauthenticatedError] * 4 + [OverloadError] * 6
    assert len(world.known.asked) == 4
    token = Token.new()
    assert refused(world.show(token.text)[0]) == refused(world.show(token.text)[0])
    assert world.known.asked.count(token.id) == 2


def test_the_least_recently_used_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "MAX_CACHED", 2)
    world = World()
    first, second, third = tokens = [Token.new() for _ in range(3)]
    for token in tokens:
        world.known.add(token)
    with contextlib.closing(world.authenticator):
        for token in (first, second, first, third, first, second):
            assert isinstance(world.show(token.text)[0], Principal)
    assert [world.known.asked.count(token.id) for token in (first, second, third)] == [1, 2, 1]


def test_who_leaves_does_not_take_the_lookup_along(world: World) -> None:
    token = Token.new()
    world.known.add(token)
    world.known.gate.clear()

    async def one_leaves() -> Principal:
        leaving = asyncio.ensure_future(world.authenticator.authenticate(token.text))
        staying = asyncio.ensure_future(world.authenticator.authenticate(token.text))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        world.known.gate.set()
        return await staying

    assert run(one_leaves()).token_id == token.id
    assert world.known.asked == [token.id]
