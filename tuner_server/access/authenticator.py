"""Finds out who shows a token."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cachetools import TLRUCache

from tuner_server.access.principal import Principal
from tuner_server.access.records import Grant
from tuner_server.access.token import Token
from tuner_server.base.clock import utc_now
from tuner_server.core.errors import OverloadError, UnauthenticatedError

FRESH_S = 3.0
"""How long a token that was looked up is believed: a revocation counts this much later, at most."""
MAX_CACHED = 4096
"""Tokens that are remembered, about a kilobyte each."""
MAX_LOOKUPS = 64
"""Lookups at a time. A flood of made-up tokens finds the door shut instead of filling the memory."""
THREADS = 2
"""Threads that look tokens up. They are not the service's threads, which such a flood must not take."""


class Grants(Protocol):
    """The place where tokens are kept."""

    def find(self, token_id: str) -> Grant | None:
        """The token of that id with its project's limits, if there is one. Raises: StorageError."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A grant, and the time on the monotonic clock at which it was asked for."""

    grant: Grant
    time_s: float


class Authenticator:
    """Knows who shows a token. It belongs to one event loop, and is closed after use."""

    def __init__(
        self,
        grants: Grants,
        now: Callable[[], datetime.datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks tokens up in `grants`, whose owner closes it after this."""
        self._grants, self._now, self._clock = grants, now, clock
        self._seen: TLRUCache[str, _Seen] = TLRUCache(MAX_CACHED, _until, timer=clock)
        self._lookups: dict[str, asyncio.Future[Grant | None]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokens")

    async def authenticate(self, text: str) -> Principal:
        """Whoever shows the token `text`.

        What is wrong with a token is told to its owner alone: without the secret, all wrong tokens get the same words.

        Raises:
            UnauthenticatedError: it is none of ours, has expired or was revoked.
            StorageError: it can't be looked up.
        """
        token = Token.parse(text)
        grant = None if token is None else await self._grant(token.id)
        if token is None or grant is None or not token.matches(grant.token.secret_hash):
            raise UnauthenticatedError("the token is not valid")
        if grant.token.revoke_time is not None:
            raise UnauthenticatedError(f"token {token.id} was revoked")
        if grant.token.expire_time is not None and grant.token.expire_time <= self._now():
            raise UnauthenticatedError(f"token {token.id} has expired")
        return grant.principal

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    async def _grant(self, token_id: str) -> Grant | None:
        seen = self._seen.get(token_id)
        if seen is not None:
            return seen.grant
        lookup = self._lookups.get(token_id)
        if lookup is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                raise OverloadError("too many tokens are being looked up; try again")
            # One for all who show this token now; none of them takes it along when it leaves.
            lookup = self._lookups[token_id] = asyncio.ensure_future(self._look_up(token_id))
            lookup.add_done_callback(lambda done: self._looked_up(token_id, done))
        return await asyncio.shield(lookup)

    async def _look_up(self, token_id: str) -> Grant | None:
        asked = self._clock()
        loop = asyncio.get_running_loop()
        grant = await loop.run_in_executor(self._threads, self._grants.find, token_id)
        # Unknown ids are not remembered: made-up ones would push out the real ones.
        self._seen.pop(token_id, None)
        if grant is not None:
            self._seen[token_id] = _Seen(grant, asked)
        return grant

    def _looked_up(self, token_id: str, done: asyncio.Future[Grant | None]) -> None:
        del self._lookups[token_id]
        if not done.cancelled():
            done.exception()  # taken note of, also when everybody who asked has gone


def _until(_token_id: str, seen: _Seen, _now_s: float) -> float:
    """How long a grant is believed: from the question on, since a revocation may have come before the answer."""
    return seen.time_s + FRESH_S
